"""Valid arguments of the methods of a bundle, and the errors for invalid ones."""

import numpy as np
import pytest

from audiolm_jax import bundles
from audiolm_jax.core.errors import AudioError, BundleError, UserError
from audiolm_jax.io import provenance
from tests.conftest import melody

pytestmark = pytest.mark.usefixtures("types_not_checked")

RATE = 16_000
CLIP = melody(1.0)
STEREO = np.stack([CLIP, CLIP], axis=1)


@pytest.mark.parametrize("method", ["encode", "continue_audio", "stream"])
@pytest.mark.parametrize(
  "waveform, rate, words",
  [
    (STEREO, RATE, r"shape \(16000, 2\).*channel_axis=-1"),
    (np.zeros((0, RATE), np.float32), RATE, r"shape \(0, 16000\)"),
    (CLIP, "16000", "sample_rate is '16000'; give a whole number"),
    (CLIP, 44_100.5, "sample_rate is 44100.5; give a whole number"),
    ("a.wav", RATE, "is the name 'a.wav'; read the file"),
    (CLIP * np.nan, RATE, "NaN"),
  ],
)
def test_each_method_refuses_the_same_waveforms(miniature_bundle, method, waveform, rate, words):
  settings = {} if method == "encode" else {"duration": 1.0}
  with pytest.raises(AudioError, match=words):
    getattr(miniature_bundle, method)(waveform, rate, **settings)


@pytest.mark.parametrize(
  "waveform, words",
  [
    ([CLIP, CLIP * 0], r"prompt \[1\] of the list is silent"),
    ([CLIP, CLIP * np.nan], r"prompt \[1\] of the list"),
    ([CLIP, STEREO], r"prompt \[1\] of the list has shape \(16000, 2\)"),
    ([CLIP, None], r"prompt \[1\] of the list is None"),
    ([CLIP, CLIP[:100]], r"prompt \[1\] of the list is 0.01 s long"),
    ([[[0.1], [0.1, 0.2]]], r"prompt \[0\] of the list is no array \(lists of unequal lengths\)"),
    (np.stack([CLIP, CLIP * 0]), r"prompt \[1\] of the batch is silent"),
    ([], "holds no samples"),
  ],
)
def test_a_bad_clip_among_several_is_named(miniature_bundle, waveform, words):
  with pytest.raises(AudioError, match=words):
    miniature_bundle.continue_audio(waveform, RATE, duration=1.0)


@pytest.mark.parametrize(
  "settings, words",
  [
    ({"seed": None}, "seed is None; give a whole number from 0"),
    ({"seed": "7"}, "seed is '7'; give a whole number from 0"),
    ({"seed": 2**32}, "seed is 4294967296; give a whole number from 0"),
    ({"num_samples": 10**9}, "num_samples is 1000000000; give a whole number from 1 to 10_000"),
    ({"num_samples": "2"}, "num_samples is '2'"),
    ({"top_k": {"coarse": 10**10}}, "coarse: top_k is 10000000000; give a whole number"),
    ({"top_k": 5}, 'top_k is 5; give a value for each stage, such as {"semantic": 5}'),
    ({"temperature": 0.8}, 'temperature is 0.8; .* such as {"semantic": 0.8}'),
    ({"temperature": {"coarse": "hot"}}, "coarse: temperature is 'hot'; give a number from 0"),
    ({"top_p": {"fine": float("nan")}}, "fine: top_p is nan; give a number from 0 to 1"),
    ({"top_p": {"fine": 0}}, "fine: top_p is 0"),
    ({"top_p": {"viola": 0.5}}, "top_p of 'viola'; the stages of miniature are semantic"),
    ({"prompt_seconds": float("inf")}, "prompt_seconds is inf; .* or None for the whole prompt"),
    ({"prompt_seconds": 0.1}, "prompt_seconds is 0.1; give a number from 0.4"),
    ({"duration": "3"}, "duration is '3'; give a number from 0 to 3_600"),
    ({"duration": 1e-9}, r"duration is 1e-09 s, shorter than one sample \(6.25e-05 s\)"),
    ({"duration": 1e-9, "mode": "resynthesis"}, "shorter than a prompt may be"),
    ({"progress": 5}, "progress is 5; give a function"),
    ({"mode": []}, r"mode \[\] is not one of continuation, unconditional"),
  ],
)
def test_settings_of_another_type_or_range_are_refused(miniature_bundle, settings, words):
  with pytest.raises(UserError, match=words):
    miniature_bundle.continue_audio(CLIP, RATE, **({"duration": 1.0} | settings))


def test_a_silent_clip_of_a_batch_is_named(miniature_bundle):
  with pytest.raises(AudioError, match=r"clip \[1\] is silent"):
    miniature_bundle.encode(np.stack([CLIP, CLIP * 0]), RATE)


def test_a_stream_takes_one_prompt(miniature_bundle):
  with pytest.raises(UserError, match="the prompt is a list of 2; give one clip"):
    miniature_bundle.stream([CLIP, CLIP], RATE, duration=1.0)
  with pytest.raises(AudioError, match=r"shape \(2, 16000\); give one clip"):
    miniature_bundle.stream(np.stack([CLIP, CLIP]), RATE, duration=1.0)


@pytest.mark.parametrize("method", ["encode", "continue_audio", "stream"])
def test_each_method_averages_channels_along_the_given_axis(miniature_bundle, method):
  settings = {} if method == "encode" else {"duration": 1.0}
  for waveform, axis in [(STEREO * [1, -1], -1), ((STEREO * [1, -1]).T, 0)]:
    with pytest.raises(AudioError, match="is silent"):
      getattr(miniature_bundle, method)(waveform, float(RATE), channel_axis=axis, **settings)
  with pytest.raises(AudioError, match=r"prompt \[1\] of the list is silent"):
    clips = [STEREO, STEREO * [1, -1]]
    miniature_bundle.continue_audio(clips, RATE, channel_axis=-1, duration=1.0)


def test_codes_that_are_no_array_are_refused(miniature_bundle):
  for codes in (None, [[1, 2], [1]], "codes"):
    with pytest.raises(UserError, match=r"give integers \[frames, quantizers\]"):
      miniature_bundle.decode(codes)


def test_bundles_are_named_by_texts_and_paths(miniature_bundle, tmp_path):
  for name in (None, 3, ["speech"], ""):
    with pytest.raises(BundleError, match=r"the bundle is .*; give the name or the folder"):
      bundles.load_bundle(name)  # pyright: ignore[reportArgumentType]: the error is tested
  with pytest.raises(UserError, match="stages is 'coarse'; give names of stages"):
    bundles.load_bundle("speech", stages="coarse")
  with pytest.raises(UserError, match="storage 'int3' is not one of float32"):
    bundles.save_bundle(miniature_bundle, tmp_path / "x", storage="int3")
  with pytest.raises(UserError, match="folder is None"):
    bundles.save_bundle(miniature_bundle, None)  # pyright: ignore[reportArgumentType]: the error is tested
  with pytest.raises(UserError, match="the bundle to save is 'speech'"):
    bundles.save_bundle("speech", tmp_path / "x")  # pyright: ignore[reportArgumentType]: the error is tested
  with pytest.raises(UserError, match="path is 12345; give the name of an audio file"):
    provenance.read_provenance(12345)  # pyright: ignore[reportArgumentType]: the error is tested
  assert not list(tmp_path.iterdir())
