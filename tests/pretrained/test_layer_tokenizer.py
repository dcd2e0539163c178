"""Tokens of miniature encoders: those of the reference's features, however a clip comes."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest

from audiolm_jax.chunking import plan
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.sliced import SlicedBlocks
from audiolm_jax.pretrained import hubert_tokenizer, kaldi_features, w2v_bert_2_tokenizer
from audiolm_jax.pretrained.weights import read_published
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


def test_a_token_of_two_steps_stands_for_their_mean_at_half_the_rate(kind):
  config = dataclasses.replace(kind.tokenizer.config, steps_per_token=2)
  halved = windowed_like(type(kind.tokenizer)(config, kind.tokenizer.params))
  assert (halved.spec.hop_length, halved.spec.frame_rate) == (640, 25.0)
  clip = noise(320 * 10 + 1)  # 11 begun steps: the last one is held for the sixth token
  steps = kind.tokenizer.features(clip[None])[0]
  assert steps.shape == (11, 16)
  means = np.concatenate([steps, steps[-1:]]).reshape(6, 2, 16).mean(axis=1)
  np.testing.assert_allclose(halved.features(clip[None])[0], means, rtol=1e-5, atol=1e-5)
  long = [noise(640 * 70 + 9, 1), clip]
  assert len(list(plan(halved.id_model, halved.num_steps(len(long[0]))))) > 1
  for found, single in zip(halved.tokenize_clips(long, 2), long, strict=True):
    np.testing.assert_array_equal(found, halved.tokenize_long(single))


def test_a_long_clip_is_read_in_slices_with_the_tokens_of_the_whole(kind, monkeypatch):
  monkeypatch.setattr(kaldi_features, "_BLOCK", 32)
  windowed, clip = windowed_like(kind.tokenizer), noise(320 * 130 + 9)
  slices = SlicedBlocks(lambda: np.array_split(clip, 20), clip.shape)

  def read_as_a_whole(self, dtype=None, copy=None):
    raise AssertionError("the whole clip is in memory")

  monkeypatch.setattr(SlicedBlocks, "__array__", read_as_a_whole)
  np.testing.assert_array_equal(windowed.tokenize_long(slices), windowed.tokenize_long(clip))


def test_clips_of_unequal_lengths_side_by_side_equal_each_alone(kind):
  windowed = windowed_like(kind.tokenizer)
  lengths = [320 * 130 + 9, 1, 5_000, 320 * 70, kind.step_length - 1]
  clips = [noise(length, seed) for seed, length in enumerate(lengths)]
  alone = [windowed.tokenize_long(clip) for clip in clips]
  assert len(list(plan(windowed.id_model, len(alone[0])))) == 4
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
    (0, 16, "layer 0 is not one of the model's blocks 1 to 3"),
    (4, 16, "layer 4 is not one"),
    (2, 17, "the centroids have 17 dimensions, the model's features 16"),
  ):
    with pytest.raises(ConfigError, match=words):
      kind.module.convert(
        published.config, published.weights, layer=layer, centroids=np.zeros((5, dim), np.float32)
      )


def test_windows_and_steps_that_cannot_be_are_named():
  with pytest.raises(ConfigError, match="context_steps 750"):
    hubert_tokenizer.HubertTokenizerConfig(context_steps=750)
  with pytest.raises(ConfigError, match="steps_per_token 0"):
    hubert_tokenizer.HubertTokenizerConfig(steps_per_token=0)


def test_a_short_clip_is_filled_up_by_a_twentieth_of_a_chunk_at_most():
  config = hubert_tokenizer.HubertTokenizerConfig()
  sizes = [config.size_for(steps) for steps in (1, 75, 76, 450, 451, 1499)]
  assert sizes == [75, 75, 150, 450, 525, 1500]


def test_converted_windows_are_of_30_s_at_any_rate(kind):
  published = read_published(GOLDEN / kind.folder)
  made = kind.module.convert(published.config, published.weights, layer=1, steps_per_token=2)
  assert (made.config.window_steps, made.config.context_steps) == (750, 125)
  assert made.spec.frame_rate == 25
