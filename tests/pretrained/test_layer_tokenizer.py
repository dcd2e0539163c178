"""Tokens of miniature encoders: those of the reference's features, however a clip comes."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from audiolm_jax.errors import ConfigError
from audiolm_jax.pretrained import hubert_tokenizer, w2v_bert_2_tokenizer
from audiolm_jax.pretrained.weights import read_published
from audiolm_jax.semantic.windowed_tokenizer import plan_windows
from tests.pretrained.conftest import (
  GOLDEN,
  miniature_hubert,
  miniature_w2v_bert_2,
  nearest,
  noise,
  windowed_like,
)


class Kind(NamedTuple):
  """One encoder: its golden folder, its tokenizer, and how many samples it needs for a step."""

  folder: str
  module: Any
  tokenizer: Any
  step_length: int


@pytest.fixture(scope="module", params=["hubert", "w2v_bert_2"])
def kind(request):
  if request.param == "hubert":
    return Kind("hubert", hubert_tokenizer, miniature_hubert(), 400)
  return Kind("w2v_bert_2", w2v_bert_2_tokenizer, miniature_w2v_bert_2(), 560)


def test_tokens_are_the_centroids_nearest_to_the_reference_and_the_last_is_held(kind):
  with np.load(GOLDEN / kind.folder / "expected.npz") as file:
    expected = dict(file)
  for i in (0, 1):
    clip = expected[f"waveform_{i}"].astype(np.float32)
    centroids = np.asarray(kind.tokenizer.params["centroids"])
    reference = nearest(expected[f"layer_2_{i}"], centroids)
    tokens = kind.tokenizer.tokenize_long(clip)
    assert len(tokens) == -(-len(clip) // 320) and tokens.dtype == np.int32
    assert len(tokens) - len(reference) in (1, 2) and len(set(reference.tolist())) > 4
    np.testing.assert_array_equal(tokens[: len(reference)], reference)
    assert (tokens[len(reference) :] == reference[-1]).all()


def test_a_token_per_begun_20_ms(kind):
  spec = kind.tokenizer.spec
  assert (spec.sample_rate, spec.hop_length, spec.frame_rate) == (16_000, 320, 50.0)
  for samples, steps in ((0, 0), (1, 1), (320, 1), (321, 2), (kind.step_length, 2), (721, 3)):
    tokens = kind.tokenizer.tokenize_long(noise(samples))
    assert tokens.shape == (steps,)
    assert (tokens < spec.num_clusters).all()
  assert kind.tokenizer.tokenize(np.zeros((2, 0), np.float32)).shape == (2, 0)


def test_clips_of_unequal_lengths_side_by_side_equal_each_alone(kind):
  windowed = windowed_like(kind.tokenizer)
  lengths = [320 * 130 + 9, 1, 5_000, 320 * 70, kind.step_length - 1]
  clips = [noise(length, seed) for seed, length in enumerate(lengths)]
  alone = [windowed.tokenize_long(clip) for clip in clips]
  assert len(plan_windows(len(alone[0]), windowed.config)) == 4
  for found, single in zip(windowed.tokenize_clips(clips, 2), alone, strict=True):
    np.testing.assert_array_equal(found, single)
  rows = np.stack([noise(max(lengths), 9)] * len(clips))
  for row, clip in zip(rows, clips, strict=True):
    row[: len(clip)] = clip
  for row, single in zip(windowed.tokenize(rows, np.array(lengths)), alone, strict=True):
    np.testing.assert_array_equal(row[: len(single)], single)
    assert not row[len(single) :].any()


def test_settings_that_do_not_fit_are_named(kind):
  published = read_published(GOLDEN / kind.folder)
  for layer, dim, words in (
    (0, 16, "layer 0 is none of the model's blocks 1 to 3"),
    (4, 16, "layer 4 is none"),
    (2, 17, "the centroids have 17 dimensions, the model's features 16"),
  ):
    with pytest.raises(ConfigError, match=words):
      kind.module.convert(
        published.config, published.weights, layer=layer, centroids=np.zeros((5, dim), np.float32)
      )


def test_context_must_leave_something_of_a_window():
  with pytest.raises(ConfigError, match="context_steps 750"):
    hubert_tokenizer.HubertTokenizerConfig(context_steps=750)
