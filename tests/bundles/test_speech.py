"""Text to speech with a bundle: voices, rates, candidates, sentences, pieces and bad requests."""

import dataclasses
import json

import numpy as np
import pytest
from helpers_conditioned import CONFIG, SPEC, conditioned_params

from audiolm_jax.bundles import load_bundle, save_bundle, speech
from audiolm_jax.core.errors import BundleError, UserError
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig
from audiolm_jax.io import provenance
from audiolm_jax.lm.stage import Stage
from tests.conftest import melody

RATE = 16_000
TEXT = "It is five, stop. Now on to six!"


@pytest.fixture(scope="module")
def bundle(miniature_bundle):
  # Without the fine stage, whose programs take as long to compile as the others together.
  stages = {name: miniature_bundle.stages[name] for name in ("semantic", "coarse")}
  stages["text"] = Stage(SPEC, CONFIG, conditioned_params())
  return dataclasses.replace(miniature_bundle, stages=stages)


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory):
  return save_bundle(bundle, tmp_path_factory.mktemp("bundles") / "speaking")


@pytest.fixture(scope="module")
def plain(bundle):
  return bundle.speak(TEXT, seed=3)


def test_a_text_is_spoken_until_the_end_token(bundle, plain):
  semantic, codes = plain.tokens.semantic, plain.tokens.codes
  assert len(codes) > 32 and len(plain.waveform) == len(codes) * 320
  assert plain.sample_rate == RATE and plain.prompt_samples == 0
  assert plain.new_seconds == pytest.approx(len(plain.waveform) / RATE)
  assert {"text", "coarse", "decode"} <= set(plain.timings)
  assert len(semantic) > 0


def test_the_sentences_of_a_long_text_are_those_that_are_spoken_alone(bundle):
  made = []
  for text in ("It is five, stop.", "Now on to six!", TEXT):
    parts = speech.sentences_of(SPEC, text)
    sampled = bundle.text_cascade.sample(
      [speech.Clip(None, given={"source.text": speech.texts.code_points(p)}) for p in parts],
      seed=3,
    )
    made.append(np.concatenate(sampled.semantic))
  np.testing.assert_array_equal(made[2], np.concatenate(made[:2]))


def test_the_codes_of_the_voice_precede_those_of_the_text_and_are_not_in_the_output(bundle, plain):
  voice = melody(1.5)
  made = bundle.speak(TEXT, voice=voice, sample_rate=RATE, prompt_seconds=0.8, seed=3)
  given = bundle.encode(voice[:12_800], RATE)
  np.testing.assert_array_equal(made.tokens.codes[:40], given.codes[:, :2])
  assert len(made.waveform) == (len(made.tokens.codes) - 40) * 320
  assert len(plain.waveform) == len(made.waveform)
  assert np.abs(plain.waveform - made.waveform).max() > 1e-3


@pytest.mark.parametrize("rate", [0.8, 1.25])
def test_the_rate_changes_the_duration_within_a_tenth(bundle, plain, rate):
  made = bundle.speak(TEXT, seed=3, rate=rate)
  assert len(made.waveform) * rate == pytest.approx(len(plain.waveform), rel=0.1)


def test_samples_do_not_depend_on_their_number(bundle):
  one, made = (bundle.speak("Stop it.", seed=3, num_samples=count) for count in (1, 2))
  np.testing.assert_array_equal(made[0].waveform, one.waveform)
  assert made[1].waveform.tobytes() != one.waveform.tobytes()


def test_samples_of_given_tokens_differ_by_their_number(bundle):
  semantic = np.arange(10) % 16
  clips = [speech.resynthesized(speech._voice(bundle, {}), semantic, 20)] * 2
  clips[1] = clips[1]._replace(first_sample=1)
  made = bundle.cascade.sample(clips, seed=3)
  assert made.codes[0].tobytes() != made.codes[1].tobytes()


def test_the_candidate_with_the_highest_score_is_used(bundle):
  rows = [np.full(index + 1, index) for index in range(6)]
  chosen = speech.best(rows, np.array([-3.0, -1.0, -2.0, -0.5, -0.7, -9.0]), 3)
  assert [row[0] for row in chosen] == [1, 3]
  (part,) = speech.sentences_of(SPEC, "It is five.")
  clip = speech.Clip(None, given={"source.text": speech.texts.code_points(part)})
  sampled = bundle.text_cascade.sample([clip], seed=7, num_samples=2)
  best = sampled.semantic[int(sampled.scores["text"].argmax())]
  made = bundle.speak("It is five.", seed=7, candidates=2)
  assert len(made.tokens.codes) == 2 * len(best)


def test_a_stream_yields_what_speak_returns(bundle, plain):
  stream = bundle.stream_speech(TEXT, seed=3)
  pieces = [*stream]
  assert len(pieces) > 1 and stream.samples == len(plain.waveform)
  np.testing.assert_allclose(np.concatenate(pieces), plain.waveform, atol=1e-5)
  np.testing.assert_array_equal(stream.tokens.codes, plain.tokens.codes)


def test_a_watermark_marks_spoken_codes_by_default(bundle, plain):
  config = WatermarkConfig(2, 16, "0" * 32, strength=8.0)
  mark = Watermark(config, np.tile(np.arange(16), (2, 1)))
  marked = dataclasses.replace(bundle, watermark=mark)
  found = marked.speak(TEXT, seed=3)
  assert found.watermark == 8.0 and plain.watermark == 0.0
  assert found.tokens.codes.tobytes() != plain.tokens.codes.tobytes()
  off = marked.speak(TEXT, seed=3, watermark="off")
  np.testing.assert_array_equal(off.tokens.codes, plain.tokens.codes)


def test_a_text_stage_does_not_change_continuations(bundle):
  settings = {"duration": 0.6, "seed": 1}
  names = ("semantic", "coarse")
  silent = dataclasses.replace(bundle, stages={name: bundle.stages[name] for name in names})
  found, wanted = (b.continue_audio(melody(1.0), RATE, **settings)
                   for b in (bundle, silent))  # fmt: skip
  np.testing.assert_array_equal(found.waveform, wanted.waveform)


def test_a_loaded_bundle_speaks_the_same(saved, plain):
  loaded = load_bundle(saved)
  assert loaded.stages["text"].spec == SPEC
  np.testing.assert_array_equal(loaded.speak(TEXT, seed=3).waveform, plain.waveform)


def test_a_bundle_with_an_implausible_text_stage_is_refused(saved, tmp_path):
  for part, field, value in (("config", "encoder_layers", 10**6), ("spec", "longest_source", -1)):
    folder = tmp_path / field
    folder.mkdir()
    for path in saved.iterdir():
      (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["components"]["text_stage"][part][field] = value
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=field):
      load_bundle(folder)


@pytest.mark.usefixtures("types_not_checked")
@pytest.mark.parametrize(
  ("text", "settings", "message"),
  [
    ("", {}, "the text '' has no words; give at least one"),
    ("...", {}, "has no words"),
    (5, {}, "the text is 5; give a string"),
    ("\N{SNOWMAN} ok", {}, r"which the stage does not know"),
    ("a" * 100_001, {}, "has 100001 characters; give at most 100000"),
    (TEXT, {"rate": 0.0}, "rate"),
    (TEXT, {"candidates": 0}, "candidates"),
    (TEXT, {"num_samples": 0}, "num_samples"),
    (TEXT, {"seed": -1}, "seed"),
    (TEXT, {"voice": melody(1.0)}, "the voice needs its sample_rate, in Hz"),
    (TEXT, {"voice": melody(0.2), "sample_rate": RATE}, "the voice is 0.20 s long"),
    (TEXT, {"temperature": {"txt": 1.0}}, "temperature of 'txt'; the stages of miniature are"),
    (TEXT, {"guidance": {"text": 2.0}}, "no passes, guidance or lookahead"),
    (TEXT, {"progress": 3}, "progress is 3"),
  ],
)
def test_bad_requests_are_one_line(bundle, text, settings, message):
  with pytest.raises(UserError, match=message) as error:
    bundle.speak(text, **settings)
  assert "\n" not in str(error.value)


def test_bundles_without_the_stages_are_named(bundle, miniature_bundle):
  with pytest.raises(BundleError, match="the bundle miniature has no text stage; train one with"):
    miniature_bundle.speak(TEXT)
  only = dataclasses.replace(bundle, stages={"text": bundle.stages["text"]})
  with pytest.raises(BundleError, match="no acoustic stage that reads semantic tokens"):
    only.speak(TEXT)
  with pytest.raises(TypeError, match="unknown settings: mode"):
    bundle.speak(TEXT, mode="continuation")


def test_the_command_speaks_and_states_how(saved, plain, tmp_path, run_cli):
  out = tmp_path / "out.wav"
  done = run_cli("sample", "--text", TEXT, f"--output={out}", f"--bundle={saved}", "--seed=3",
                 "--save_tokens", "--num_samples=2")  # fmt: skip
  assert done.code == 0, done.err
  found = provenance.read_provenance(tmp_path / "out_1.wav")
  assert found is not None
  assert (found.mode, found.seed, found.sample, found.prompt_seconds) == ("speech", 3, 0, 0.0)
  with np.load(tmp_path / "out_1.npz") as tokens:
    np.testing.assert_array_equal(tokens["stream:codes"], plain.tokens.codes)
  assert (tmp_path / "out_2.wav").exists() and "real-time factor" in done.out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--text=hi", "--prompt=a.wav"), "--text takes no --prompt; omit one of them"),
    (("--text=hi", "--mode=continuation"), "--text takes no --mode"),
    (("--text=hi", "--duration=3"), "--text takes no --duration"),
    (("--prompt=a.wav", "--rate=1.2"), "--rate and --candidates are for --text"),
    (("--text=", ), "has no words"),
    (("--text=hi", "--voice=none.wav"), "none.wav"),
  ],
)  # fmt: skip
def test_the_command_refuses_what_does_not_fit(arguments, message, saved, tmp_path, run_cli):
  done = run_cli("sample", f"--output={tmp_path / 'out.wav'}", f"--bundle={saved}", *arguments)
  assert done.code == 2 and message in done.err and done.err.count("\n") == 1
  assert not (tmp_path / "out.wav").exists()
