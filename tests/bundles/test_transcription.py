"""Recognition of speech with a bundle: texts, long recordings, bad requests, the command."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
from helpers_conditioned import CONFIG, SPEC, conditioned_params

from audiolm_jax.bundles import load_bundle, save_bundle
from audiolm_jax.bundles.settings import options_of, temperatures_of
from audiolm_jax.core.errors import BundleError, UserError
from audiolm_jax.lm import text
from audiolm_jax.lm.conditioned import transcript_stage
from audiolm_jax.lm.stage import Stage
from tests.conftest import melody

RATE = 16_000
TRANSCRIPT = transcript_stage(num_clusters=16, longest_seconds=1.6, longest_text=24)


@pytest.fixture(scope="module")
def bundle(miniature_bundle):
  """A bundle that speaks and recognizes."""
  stages = dict(miniature_bundle.stages)
  stages["text"] = Stage(SPEC, CONFIG, conditioned_params())
  stages["transcript"] = Stage(TRANSCRIPT, CONFIG, conditioned_params(spec=TRANSCRIPT))
  return dataclasses.replace(miniature_bundle, stages=stages)


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory):
  return save_bundle(bundle, tmp_path_factory.mktemp("bundles") / "reading")


@pytest.fixture(scope="module")
def words(bundle):
  return bundle.transcribe(melody(1.5), RATE)


def test_the_text_has_known_characters_and_depends_on_the_recording(bundle, words):
  assert 0 < len(words) <= 24 and set(words) <= set(text.CHARACTERS)
  assert bundle.transcribe(melody(1.5), RATE) == words
  assert bundle.transcribe(melody(1.5)[::-1].copy(), RATE) != words
  stereo = np.stack([melody(1.5)] * 2, axis=1)
  assert bundle.transcribe(stereo, RATE, channel_axis=1) == words


def test_a_temperature_draws_other_texts(bundle, words):
  drawn = [bundle.transcribe(melody(1.5), RATE, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
  assert drawn[0] == drawn[1] != drawn[2] and drawn[0] != words


def test_the_text_of_a_long_recording_is_that_of_its_pieces(bundle):
  long = np.concatenate([melody(1.5), np.zeros(2_400), melody(1.5)]).astype(np.float32)
  assert len(bundle.transcribe(long, RATE).split(" ")) > 1


def test_the_stage_changes_neither_speech_nor_continuations(bundle, miniature_bundle):
  names = ("semantic", "coarse", "fine")
  assert [*bundle.cascade.missing()] == [*miniature_bundle.cascade.missing()]
  assert [spec.name for spec in bundle.cascade._needed] == [*names]
  assert "transcript" not in temperatures_of(bundle) and "text" in temperatures_of(bundle)
  assert [*bundle.text_cascade._samplers] == ["text"]
  assert [*options_of(bundle, {}, 0.0).stages] == [*names, "text"]
  with pytest.raises(UserError, match="temperature of 'transcript'; the stages of"):
    options_of(bundle, {"temperature": {"transcript": 1.0}}, 0.0)


@pytest.mark.usefixtures("types_not_checked")
@pytest.mark.parametrize(
  ("waveform", "settings", "message"),
  [
    (melody(0.2), {}, "the recording is 0.20 s long"),
    (np.zeros(RATE), {}, "the recording is silent"),
    (melody(1.5), {"temperature": -1}, "temperature is -1"),
    (melody(1.5), {"seed": 0.5}, "seed is 0.5"),
  ],
)
def test_bad_requests_are_one_line(bundle, waveform, settings, message):
  with pytest.raises(UserError, match=message) as error:
    bundle.transcribe(waveform, RATE, **settings)
  assert "\n" not in str(error.value)


def test_a_bundle_without_the_stage_is_named(miniature_bundle):
  with pytest.raises(BundleError, match="the bundle miniature has no transcript stage; train one"):
    miniature_bundle.transcribe(melody(1.5), RATE)


def test_the_command_prints_the_texts(saved, words, tmp_path, run_cli):
  assert load_bundle(saved).stages["transcript"].spec == TRANSCRIPT
  clip = tmp_path / "clip.wav"
  soundfile.write(clip, melody(1.5), RATE, subtype="FLOAT")
  done = run_cli("transcribe", f"--bundle={saved}", clip)
  assert (done.code, done.out) == (0, f"{words}\n"), done.err
  done = run_cli("transcribe", f"--bundle={saved}", "--json", clip, clip)
  assert json.loads(done.out) == [{"file": str(clip), "text": words}] * 2
  done = run_cli("transcribe", f"--bundle={saved}", clip, clip)
  assert done.out == f"{clip}\t{words}\n" * 2


@pytest.mark.parametrize(
  ("arguments", "message"),
  [((), "give audio files: transcribe FILE"), (("none.wav",), "none.wav")],
)
def test_the_command_refuses_what_does_not_fit(arguments, message, saved, run_cli):
  done = run_cli("transcribe", f"--bundle={saved}", *arguments)
  assert done.code == 2 and message in done.err and done.err.count("\n") == 1
