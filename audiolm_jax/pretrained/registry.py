"""Published models that can be converted: where they are, and on what terms."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.pretrained import (
  dac,
  encodec,
  hubert_tokenizer,
  mimi,
  w2v_bert_2_tokenizer,
)
from audiolm_jax.pretrained.weights import Published


class Terms(enum.StrEnum):
  """What the licence of a model's weights asks of whoever uses them."""

  ATTRIBUTION = "attribution"
  SHARE_ALIKE = "share-alike"
  NON_COMMERCIAL = "non-commercial"
  UNSTATED = "unstated"


@dataclasses.dataclass(frozen=True)
class PublishedModel:
  """One set of weights that others have published.

  Attributes:
    name: what `--from` calls it.
    component: the part of a bundle that it becomes, "codec" or "semantic".
    hub_id: of the Hugging Face hub.
    licence: of the weights, by its SPDX identifier; NOASSERTION where none was found.
    terms: what that licence asks.
    credit: who made it, for the model card.
    convert: makes the component of its `config.json` and its tensors; a semantic tokenizer also of
      `layer` and `centroids`.
    sha256: of the weights' file; None where no file could be seen.
  """

  name: str
  component: str
  hub_id: str
  licence: str
  terms: Terms
  credit: str
  convert: Callable[..., Any]
  sha256: str | None = None


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
    # Its code is MIT; no word on the weights was found, which permits nothing.
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
  """The model of that name.

  Raises:
    UserError: there is none.
  """
  if name not in MODELS:
    raise UserError(f"no published model {name!r} can be converted; there are: {', '.join(MODELS)}")
  return MODELS[name]


def check_terms(model: PublishedModel, accepted: str | None) -> str:
  """What to tell whoever converts a model.

  Args:
    accepted: the licence that was agreed to by name, if any.
  Raises:
    UserError: a licence that forbids commercial use or binds what is made with the weights, or
      none that is known, and it was not agreed to.
  """
  if model.terms is Terms.UNSTATED:
    notice = f"{model.credit}; no licence of its weights is known"
    if accepted != model.licence:
      raise UserError(
        f"{notice}; read what the page of {model.hub_id} says today, and answer for the use you "
        f"make of them by --accept_licence={model.licence}"
      )
    return notice
  notice = f"{model.credit}; its weights are licensed {model.licence} ({model.terms})"
  if model.terms is not Terms.ATTRIBUTION and accepted != model.licence:
    raise UserError(
      f"{notice}; whoever uses or passes them on is bound by it: agree with "
      f"--accept_licence={model.licence}"
    )
  return notice


def convert(model: PublishedModel, published: Published, **settings: Any) -> Any:
  """The component that a published model becomes.

  Args:
    settings: what its `convert` asks for beside the weights.
  Raises:
    UserError: the file is not the published one, or does not fit the model.
  """
  if model.sha256 and published.sha256 != model.sha256:
    raise DataError(
      f"the weights have the SHA-256 {published.sha256}, those of {model.hub_id} have "
      f"{model.sha256}; download them again"
    )
  return model.convert(published.config, published.weights, **settings)
