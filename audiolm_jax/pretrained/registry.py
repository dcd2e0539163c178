"""Published models that can be converted, with their sources and licences."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.pretrained import (
  dac,
  encodec,
  hubert_tokenizer,
  lyra,
  mimi,
  w2v_bert_2_tokenizer,
)
from audiolm_jax.pretrained.weights import Published, read_published


class Terms(enum.StrEnum):
  """Requirements of the licence of a model's weights."""

  ATTRIBUTION = "attribution"
  SHARE_ALIKE = "share-alike"
  NON_COMMERCIAL = "non-commercial"
  UNSTATED = "unstated"


@dataclasses.dataclass(frozen=True)
class PublishedModel:
  """A set of published weights.

  Attributes:
    name: name of the model, the value of the flag `--from` of `audiolm_jax.convert`.
    component: the part of a bundle to which the model is converted, "codec" or "semantic".
    hub_id: id on the Hugging Face hub, or address of the page from which to download the model.
    licence: SPDX identifier of the licence of the weights; NOASSERTION if no licence was found.
    terms: requirements of the licence.
    credit: name and authors, for the model card.
    convert: maps the configuration and the tensors to the component. For a semantic tokenizer, it
      also requires `layer`, and accepts `centroids` and `steps_per_token`.
    sha256: hash of the files of the weights; None if unknown.
    read: reads the files of the model from a path or an id.
    in_transformers: whether Hugging Face transformers can run the model, for a comparison.
  """

  name: str
  component: str
  hub_id: str
  licence: str
  terms: Terms
  credit: str
  convert: Callable[..., Any]
  sha256: str | None = None
  read: Callable[[str], Published] = read_published
  in_transformers: bool = True


_MODELS = (
  PublishedModel(
    name="dac_16khz",
    component="codec",
    hub_id="descript/dac_16khz",
    licence="MIT",
    terms=Terms.ATTRIBUTION,
    credit="Descript Audio Codec, 16 kHz, by Descript (arXiv 2306.06546)",
    convert=dac.convert,
  ),
  PublishedModel(
    name="encodec_24khz",
    component="codec",
    hub_id="facebook/encodec_24khz",
    # The licence of the code is MIT. No licence of the weights was found, so no use is permitted.
    licence="NOASSERTION",
    terms=Terms.UNSTATED,
    credit="EnCodec, 24 kHz, by Meta (arXiv 2210.13438)",
    convert=encodec.convert,
  ),
  PublishedModel(
    name="mimi",
    component="codec",
    hub_id="kyutai/mimi",
    licence="CC-BY-4.0",
    terms=Terms.ATTRIBUTION,
    credit="Mimi, 24 kHz, by Kyutai (arXiv 2410.00037)",
    convert=mimi.convert,
  ),
  PublishedModel(
    name="lyra_v2",
    component="codec",
    hub_id="github.com/google/lyra",
    licence="Apache-2.0",
    terms=Terms.ATTRIBUTION,
    credit="Lyra v2, 16 kHz, by Google (SoundStream, arXiv 2107.03312)",
    convert=lyra.convert,
    sha256="e3ad94e72f4b5b3fb931d52dcf37380fcf8008e7e98f423b34f1ca575c2b3058",
    read=lyra.read_files,
    in_transformers=False,
  ),
  PublishedModel(
    name="hubert_base",
    component="semantic",
    hub_id="facebook/hubert-base-ls960",
    licence="Apache-2.0",
    terms=Terms.ATTRIBUTION,
    credit="HuBERT base, trained on LibriSpeech, by Facebook AI (arXiv 2106.07447)",
    convert=hubert_tokenizer.convert,
  ),
  PublishedModel(
    name="mhubert_base_25hz",
    component="semantic",
    hub_id="slprl/mhubert-base-25hz",
    licence="MIT",
    terms=Terms.ATTRIBUTION,
    credit="Multilingual HuBERT base at 25 Hz, by Meta and SLP-RL (arXiv 2305.13009, 2409.07437)",
    convert=hubert_tokenizer.convert,
  ),
  PublishedModel(
    name="w2v_bert_2",
    component="semantic",
    hub_id="facebook/w2v-bert-2.0",
    licence="MIT",
    terms=Terms.ATTRIBUTION,
    credit="w2v-BERT 2.0, by Meta (arXiv 2312.05187)",
    convert=w2v_bert_2_tokenizer.convert,
  ),
)
MODELS = {model.name: model for model in _MODELS}


def find_model(name: str) -> PublishedModel:
  """Returns the published model with the given name.

  Raises:
    UserError: no model has this name.
  """
  if name not in MODELS:
    raise UserError(f"no published model {name!r} can be converted; use one of {', '.join(MODELS)}")
  return MODELS[name]


def check_terms(model: PublishedModel, accepted: str | None) -> str:
  """Returns a notice on the licence of a model for the user who converts it.

  Args:
    model: the model.
    accepted: identifier of the licence that the user accepted; None if no licence was accepted.

  Raises:
    UserError: the licence is unknown or requires more than attribution, and the user did not accept
      it.
  """
  if model.terms is Terms.UNSTATED:
    notice = f"{model.credit}; no licence of its weights is known"
    if accepted != model.licence:
      raise UserError(
        f"{notice}; read the current page of {model.hub_id}, and take responsibility for your "
        f"use of them by --accept_licence={model.licence}"
      )
    return notice
  notice = f"{model.credit}; its weights are licensed {model.licence} ({model.terms})"
  if model.terms is not Terms.ATTRIBUTION and accepted != model.licence:
    raise UserError(
      f"{notice}; it binds everyone who uses or redistributes them: agree with "
      f"--accept_licence={model.licence}"
    )
  return notice


def convert(model: PublishedModel, published: Published, **settings: object) -> Any:
  """Returns the component of a published model.

  Args:
    model: the model.
    published: content of the files of the model.
    **settings: further arguments of `model.convert`.

  Raises:
    DataError: the hash of the weights is wrong, or a tensor is missing or unused.
    ConfigError: the configuration, a setting or a tensor does not fit the model.
  """
  if model.sha256 and published.sha256 != model.sha256:
    raise DataError(
      f"the weights have the SHA-256 {published.sha256}, those of {model.hub_id} have "
      f"{model.sha256}; download them again"
    )
  return model.convert(published.config, published.weights, **settings)
