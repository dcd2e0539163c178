"""Text to speech with a bundle: voices, rates, candidates, sentences, pieces and bad requests."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
from helpers_conditioned import CONFIG, SPEC, conditioned_params

from audiolm_jax.bundles import load_bundle, save_bundle, speaking
from audiolm_jax.core.errors import BundleError, UserError
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig
from audiolm_jax.io import provenance
from audiolm_jax.lm.conditioned import speech_stage
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.tokens import collapse_repeats
from tests.conftest import melody

RATE = 16_000
TEXT = "It is five, stop. Now on to six!"
# Pieces of a source have 0.48 s to 0.96 s.
SPEECH = speech_stage(num_clusters=16, longest_seconds=4.0, longest_source=24)
SOURCE = melody(0.9, seed=4)
GAP = np.zeros(640, np.float32)
LONG = np.concatenate([melody(0.6, seed=4), GAP, melody(0.72, seed=5), GAP, melody(0.4)])


@pytest.fixture(scope="module")
def bundle(miniature_bundle):
  # Without the fine stage, whose programs take as long to compile as the others together.
  stages = {name: miniature_bundle.stages[name] for name in ("semantic", "coarse")}
  stages["text"] = Stage(SPEC, CONFIG, conditioned_params())
  stages["speech"] = Stage(SPEECH, CONFIG, conditioned_params(spec=SPEECH, seed=2))
  return dataclasses.replace(miniature_bundle, stages=stages)


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory):
  return save_bundle(bundle, tmp_path_factory.mktemp("bundles") / "speaking")


@pytest.fixture(scope="module")
def plain(bundle):
  return bundle.speak(TEXT, seed=3)


@pytest.fixture(scope="module")
def translated(bundle):
  return bundle.speak_from(SOURCE, RATE, seed=3)


def predicted(bundle, source, seed=3):
  """What the speech stage makes of a source that it reads as a whole."""
  semantic = bundle.semantic.tokenize_long(source)
  clip = speaking.Clip(None, given={"source.semantic": semantic})
  (found,) = bundle.speech_cascade.sample([clip], seed=seed).semantic
  return found


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
    parts = speaking.sentences_of(SPEC, text)
    sampled = bundle.text_cascade.sample(
      [speaking.Clip(None, given={"source.text": speaking.texts.code_points(p)}) for p in parts],
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
  clips = [speaking.resynthesized(speaking._voice(bundle, {}), semantic, 20)] * 2
  clips[1] = clips[1]._replace(first_sample=1)
  made = bundle.cascade.sample(clips, seed=3)
  assert made.codes[0].tobytes() != made.codes[1].tobytes()


def test_the_candidate_with_the_highest_score_is_used(bundle):
  rows = [np.full(index + 1, index) for index in range(6)]
  chosen = speaking.best(rows, np.array([-3.0, -1.0, -2.0, -0.5, -0.7, -9.0]), 3)
  assert [row[0] for row in chosen] == [1, 3]
  (part,) = speaking.sentences_of(SPEC, "It is five.")
  clip = speaking.Clip(None, given={"source.text": speaking.texts.code_points(part)})
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


def test_a_recording_is_spoken_as_the_speech_stage_predicts(bundle, translated):
  wanted = predicted(bundle, SOURCE)
  assert len(wanted) > 4
  np.testing.assert_array_equal(translated.tokens.semantic, collapse_repeats(wanted))
  assert len(translated.tokens.codes) == 2 * len(wanted)
  assert len(translated.waveform) == len(wanted) * 640 and translated.prompt_samples == 0
  assert {"encode", "speech", "coarse", "decode"} <= set(translated.timings)
  assert "text" not in translated.timings
  stereo = (np.stack([SOURCE] * 2, axis=1) * 32_767).astype(np.int16)
  same = bundle.speak_from(stereo, RATE, seed=3, channel_axis=1)
  np.testing.assert_array_equal(same.tokens.codes, translated.tokens.codes)


def test_a_long_recording_is_spoken_in_pieces_that_end_where_it_is_quiet(bundle):
  semantic = bundle.semantic.tokenize_long(LONG)
  assert len(semantic) == 45
  parts = [semantic[:15], semantic[15:34], semantic[34:]]
  wanted = bundle.speech_cascade.sample(
    [speaking.Clip(None, given={"source.semantic": part}) for part in parts], seed=3
  )
  made = bundle.speak_from(LONG, RATE, seed=3)
  whole = collapse_repeats(np.concatenate(wanted.semantic))
  np.testing.assert_array_equal(made.tokens.semantic, whole)


def test_a_recording_is_spoken_in_a_voice_at_a_rate_by_candidates(bundle, translated):
  voice = melody(1.5)
  made = bundle.speak_from(SOURCE, RATE, voice=voice, prompt_seconds=0.8, seed=3, rate=0.5)
  given = bundle.encode(voice[:12_800], RATE)
  np.testing.assert_array_equal(made.tokens.codes[:40], given.codes[:, :2])
  assert len(made.waveform) == 2 * len(translated.waveform)
  one, two = bundle.speak_from(SOURCE, RATE, seed=3, num_samples=2, candidates=2)
  assert one.waveform.tobytes() != two.waveform.tobytes()
  assert "encode" in one.timings and "encode" not in two.timings


def test_a_stream_of_a_recording_yields_what_speak_from_returns(bundle):
  whole = bundle.speak_from(LONG, RATE, seed=3)
  stream = bundle.stream_speech_from(LONG, RATE, seed=3)
  pieces = [*stream]
  assert len(pieces) > 1 and stream.samples == len(whole.waveform)
  np.testing.assert_allclose(np.concatenate(pieces), whole.waveform, atol=1e-5)


def test_a_watermark_marks_spoken_codes_by_default(bundle, plain):
  config = WatermarkConfig(2, 16, "0" * 32, strength=8.0)
  mark = Watermark(config, np.tile(np.arange(16), (2, 1)))
  marked = dataclasses.replace(bundle, watermark=mark)
  found = marked.speak(TEXT, seed=3)
  assert found.watermark == 8.0 and plain.watermark == 0.0
  assert found.tokens.codes.tobytes() != plain.tokens.codes.tobytes()
  off = marked.speak(TEXT, seed=3, watermark="off")
  np.testing.assert_array_equal(off.tokens.codes, plain.tokens.codes)


def test_stages_with_a_source_do_not_change_continuations(bundle):
  settings = {"duration": 0.6, "seed": 1}
  names = ("semantic", "coarse")
  silent = dataclasses.replace(bundle, stages={name: bundle.stages[name] for name in names})
  found, wanted = (b.continue_audio(melody(1.0), RATE, **settings)
                   for b in (bundle, silent))  # fmt: skip
  np.testing.assert_array_equal(found.waveform, wanted.waveform)


def test_a_bundle_without_a_semantic_stage_speaks_but_does_not_continue(bundle, translated):
  stages = {name: bundle.stages[name] for name in ("coarse", "speech")}
  translator = dataclasses.replace(bundle, stages=stages)
  made = translator.speak_from(SOURCE, RATE, seed=3)
  np.testing.assert_array_equal(made.tokens.codes, translated.tokens.codes)
  with pytest.raises(BundleError, match="has no semantic stage; it can speak or resynthesize"):
    translator.continue_audio(SOURCE, RATE, duration=1.0)


def test_a_loaded_bundle_speaks_the_same(saved, plain):
  loaded = load_bundle(saved)
  assert loaded.stages["text"].spec == SPEC and loaded.stages["speech"].spec == SPEECH
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


@pytest.mark.usefixtures("types_not_checked")
@pytest.mark.parametrize(
  ("source", "settings", "message"),
  [
    (melody(0.2), {}, "the source is 0.20 s long"),
    (np.zeros(RATE), {}, "the source is silent"),
    (np.stack([SOURCE] * 2), {}, "the source"),
    (SOURCE, {"rate": 0.0}, "rate"),
    (SOURCE, {"num_samples": 0}, "num_samples"),
    (SOURCE, {"voice": melody(0.2)}, "the voice is 0.20 s long"),
    (SOURCE, {"temperature": {"spech": 1.0}}, "temperature of 'spech'; the stages of miniature"),
  ],
)
def test_bad_requests_with_a_recording_are_one_line(bundle, source, settings, message):
  with pytest.raises(UserError, match=message) as error:
    bundle.speak_from(source, RATE, **settings)
  assert "\n" not in str(error.value)


def test_bundles_without_a_fitting_speech_stage_are_named(bundle, miniature_bundle):
  with pytest.raises(
    BundleError, match=r"miniature has no speech stage; .*speech_stage_small\.gin .* speech=DIR"
  ):
    miniature_bundle.speak_from(SOURCE, RATE)
  only = dataclasses.replace(bundle, stages={"speech": bundle.stages["speech"]})
  with pytest.raises(BundleError, match="has a speech stage, but no acoustic stage that reads"):
    only.speak_from(SOURCE, RATE)
  spec = dataclasses.replace(SPEECH, source_rate=50.0)
  other = Stage(spec, CONFIG, bundle.stages["speech"].params)
  foreign = dataclasses.replace(bundle, stages=bundle.stages | {"speech": other})
  with pytest.raises(BundleError, match=r"a rate of 50\.0 in source\.semantic, its tokens have 25"):
    foreign.speak_from(SOURCE, RATE)
  with pytest.raises(TypeError, match="unknown settings: mode"):
    bundle.speak_from(SOURCE, RATE, mode="continuation")


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


def test_the_command_speaks_a_recording_and_states_how(saved, translated, tmp_path, run_cli):
  source, out = tmp_path / "source.wav", tmp_path / "out.wav"
  soundfile.write(source, SOURCE, RATE, subtype="FLOAT")
  done = run_cli("sample", "--source", source, f"--output={out}", f"--bundle={saved}", "--seed=3",
                 "--save_tokens")  # fmt: skip
  assert done.code == 0, done.err
  found = provenance.read_provenance(out)
  assert found is not None
  assert (found.mode, found.seed, found.prompt_seconds) == ("speech_to_speech", 3, 0.0)
  with np.load(tmp_path / "out.npz") as tokens:
    np.testing.assert_array_equal(tokens["stream:codes"], translated.tokens.codes)
  done = run_cli("sample", "--source", source, f"--output={source}", f"--bundle={saved}")
  assert done.code == 2 and "source.wav" in done.err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--source=a.wav", "--prompt=a.wav"), "--source takes no --prompt; omit one of them"),
    (("--source=a.wav", "--text=hi"), "--text takes no --source; omit one of them"),
    (("--source=none.wav",), "none.wav"),
    (("--text=hi", "--prompt=a.wav"), "--text takes no --prompt; omit one of them"),
    (("--text=hi", "--mode=continuation"), "--text takes no --mode"),
    (("--text=hi", "--duration=3"), "--text takes no --duration"),
    (("--prompt=a.wav", "--rate=1.2"), "--rate and --candidates are for --text and --source"),
    (("--text=", ), "has no words"),
    (("--text=hi", "--voice=none.wav"), "none.wav"),
  ],
)  # fmt: skip
def test_the_command_refuses_what_does_not_fit(arguments, message, saved, tmp_path, run_cli):
  done = run_cli("sample", f"--output={tmp_path / 'out.wav'}", f"--bundle={saved}", *arguments)
  assert done.code == 2 and message in done.err and done.err.count("\n") == 1
  assert not (tmp_path / "out.wav").exists()
