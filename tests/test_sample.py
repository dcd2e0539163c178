"""Sampling with the API and the command, using a miniature bundle."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile

from audiolm_jax import sample
from audiolm_jax.bundles import continuation, save_bundle
from audiolm_jax.bundles.settings import temperatures_of
from audiolm_jax.core.errors import UserError
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig
from audiolm_jax.io import audio, token_file
from audiolm_jax.io.provenance import Provenance, read_provenance
from audiolm_jax.lm.tokens import collapse_repeats
from tests.conftest import melody

RATE = 16_000


@pytest.fixture(scope="module")
def folder(miniature_bundle, tmp_path_factory):
  return save_bundle(miniature_bundle, tmp_path_factory.mktemp("bundles") / "mini")


@pytest.fixture
def prompt(tmp_path):
  soundfile.write(tmp_path / "in.wav", melody(2.0), RATE, subtype="FLOAT")
  return tmp_path / "in.wav"


def made(bundle, waveform=None, **settings):
  rate = None if waveform is None else RATE
  return bundle.continue_audio(waveform, rate, **({"duration": 0.6} | settings))


@pytest.mark.parametrize("samples", [16_000, 16_001, 15_777, 6_400])
@pytest.mark.parametrize("duration", [0.6, 0.01234])
def test_the_length_is_exact_to_the_sample(miniature_bundle, samples, duration):
  result = made(miniature_bundle, melody(1.5)[:samples], duration=duration)
  assert result.waveform.shape == (samples + round(duration * RATE),)
  assert result.waveform.dtype == np.float32 and np.abs(result.waveform).max() <= 1
  assert result.prompt_samples == samples and result.sample_rate == RATE


def test_the_prompts_tokens_are_a_prefix_of_the_results(miniature_bundle):
  prompt = melody(1.0)
  tokens = miniature_bundle.encode(prompt, RATE)
  result = made(miniature_bundle, prompt, duration=2.5)
  np.testing.assert_array_equal(result.tokens.codes[:50], tokens.codes)
  collapsed = collapse_repeats(tokens.semantic)
  np.testing.assert_array_equal(result.tokens.semantic[: len(collapsed)], collapsed)
  assert result.tokens.codes.shape == (175, 4)
  decoded = miniature_bundle.decode(result.tokens.codes)
  np.testing.assert_allclose(decoded[: len(result.waveform)], result.waveform, atol=1e-6)


def test_the_temperatures_of_a_bundle_are_its_defaults(miniature_bundle):
  warm = dataclasses.replace(miniature_bundle, temperatures={"coarse": 1.5})
  warm.__dict__["cascade"] = miniature_bundle.cascade  # compiled already
  paper, own = (made(b, melody(1.0)).tokens.codes for b in (miniature_bundle, warm))
  assert not np.array_equal(own, paper)
  asked = made(miniature_bundle, melody(1.0), temperature={"coarse": 1.5}).tokens.codes
  np.testing.assert_array_equal(asked, own)
  np.testing.assert_array_equal(
    made(warm, melody(1.0), temperature={"coarse": 0.8}).tokens.codes, paper
  )
  assert temperatures_of(warm) == {"semantic": 0.6, "coarse": 1.5, "fine": 0.6}


def test_equal_seeds_have_equal_results_and_other_seeds_differ(miniature_bundle):
  one, same, other = (made(miniature_bundle, melody(1.0), seed=s).tokens.codes for s in (5, 5, 6))
  np.testing.assert_array_equal(one, same)
  assert not np.array_equal(one, other)


def test_a_sample_does_not_depend_on_the_batch(miniature_bundle):
  prompts = np.stack([melody(1.0, seed) for seed in (1, 2)])
  together = made(miniature_bundle, prompts, num_samples=2)
  assert together.waveform.shape == (2, 2, 25_600)
  assert together.tokens.codes.shape == (2, 2, 80, 4) and len(together.tokens.semantic) == 4
  for row, prompt in enumerate(prompts):
    alone = made(miniature_bundle, prompt, num_samples=2)
    assert alone.waveform.shape == (2, 25_600)
    np.testing.assert_array_equal(alone.tokens.codes, together.tokens.codes[row])
    np.testing.assert_array_equal(alone.waveform, together.waveform[row])
  assert not np.array_equal(together.waveform[0, 0], together.waveform[0, 1])
  first = made(miniature_bundle, prompts[0]).waveform
  np.testing.assert_array_equal(first, together.waveform[0, 0])
  assert made(miniature_bundle, prompts).waveform.shape == (2, 25_600)


def test_a_list_of_prompts_of_unequal_lengths_equals_single_calls(miniature_bundle):
  prompts = [melody(seconds, seed) for seed, seconds in enumerate((1.0, 0.63, 2.2))]
  settings = {"duration": 1.1, "num_samples": 2, "prompt_seconds": None}
  together = made(miniature_bundle, prompts, **settings)
  for prompt, result in zip(prompts, together, strict=True):
    alone = made(miniature_bundle, prompt, **settings)
    assert result.waveform.shape == (2, len(prompt) + 17_600)
    assert result.prompt_samples == len(prompt) and result.new_seconds == 2.2
    np.testing.assert_array_equal(result.waveform, alone.waveform)
    np.testing.assert_array_equal(result.tokens.codes, alone.tokens.codes)
    for a, b in zip(result.tokens.semantic, alone.tokens.semantic, strict=True):
      np.testing.assert_array_equal(a, b)
  (only,) = made(miniature_bundle, [list(prompts[1])])
  np.testing.assert_array_equal(only.waveform, made(miniature_bundle, prompts[1]).waveform)
  alone, other = made(miniature_bundle, prompts[:2], mode="resynthesis", duration=None)
  assert (alone.waveform.shape, other.waveform.shape) == ((16_000,), (10_080,))


@pytest.mark.parametrize(
  "settings",
  [
    {"duration": 0.6},
    {"duration": 3.1, "prompt_audio": "none"},
    {"duration": 2.0, "prompt_audio": "original", "top_k": {"coarse": 5}},
    {"duration": 1.0, "prompt_seconds": 0.77, "temperature": {"fine": 0.0}},
    {"mode": "resynthesis", "duration": None},
  ],
)
def test_streamed_audio_equals_the_whole(miniature_bundle, settings):
  prompt = melody(1.0)
  pieces = list(miniature_bundle.stream(prompt, RATE, seed=4, **settings))
  whole = made(miniature_bundle, prompt, seed=4, **settings).waveform
  assert len(pieces) > 1 and all(piece.ndim == 1 and len(piece) for piece in pieces)
  streamed = np.concatenate(pieces)
  assert streamed.shape == whole.shape
  np.testing.assert_allclose(streamed, whole, atol=1e-5)


def test_a_stream_without_a_prompt(miniature_bundle):
  settings = {"mode": "unconditional", "duration": 1.5, "seed": 9}
  streamed = np.concatenate(list(miniature_bundle.stream(**settings)))
  whole = miniature_bundle.continue_audio(**settings).waveform
  np.testing.assert_allclose(streamed, whole, atol=1e-5)


def test_nothing_is_compiled_for_another_length_once_warm(miniature_bundle):
  compiled = []

  def listen(event, seconds, **_):
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.append(seconds)

  random = np.random.default_rng(0)
  lengths = random.integers(8_000, 48_000, 20)
  settings = {"duration": 1.5, "prompt_seconds": None}
  for length in (8_000, 18_000, 28_000, 38_000, 48_000):
    made(miniature_bundle, melody(3.0)[:length], **settings)
  jax.monitoring.register_event_duration_secs_listener(listen)  # pyright: ignore[reportArgumentType]: JAX names the arguments
  try:
    for length in lengths:
      made(miniature_bundle, melody(3.0)[:length], **settings)
    assert compiled == []
    jax.jit(lambda x: x + len(lengths))(1.0)
    assert len(compiled) == 1  # the listener works
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)  # pyright: ignore[reportArgumentType]: JAX names the arguments


@pytest.mark.usefixtures("types_not_checked")
def test_invalid_streams_are_refused_immediately(miniature_bundle):
  for prompt, settings, words in [
    (np.stack([melody(1.0)] * 2), {"duration": 1}, "give one clip"),
    ([melody(1.0)], {"duration": 1}, "give one clip"),
    (melody(1.0), {}, "needs a duration"),
    (melody(1.0), {"duration": 1, "seed": -1}, "seed is -1"),
    (np.zeros(RATE, np.float32), {"duration": 1}, "silent"),
  ]:
    with pytest.raises(UserError, match=words):
      miniature_bundle.stream(prompt, RATE, **settings)


def test_an_unknown_setting_is_refused(miniature_bundle):
  with pytest.raises(TypeError, match="unknown settings: temprature_fine"):
    made(miniature_bundle, melody(1.0), temprature_fine=0.5)


def test_prompt_audio_selects_the_prompt_in_the_output(miniature_bundle):
  prompt = melody(1.0)
  codec, original, none = (
    made(miniature_bundle, prompt, prompt_audio=kind) for kind in ("codec", "original", "none")
  )
  np.testing.assert_array_equal(original.waveform[:16_000], prompt)
  np.testing.assert_array_equal(original.waveform[16_000:], codec.waveform[16_000:])
  np.testing.assert_array_equal(none.waveform, codec.waveform[16_000:])
  assert not np.array_equal(codec.waveform[:16_000], prompt)
  assert (codec.prompt_samples, none.prompt_samples) == (16_000, 0)


def test_only_the_beginning_of_a_prompt_is_used(miniature_bundle):
  result = made(miniature_bundle, melody(2.0), prompt_seconds=0.5)
  expected = made(miniature_bundle, melody(2.0)[:8_000])
  np.testing.assert_array_equal(result.waveform, expected.waveform)
  whole = made(miniature_bundle, melody(2.0), prompt_seconds=None)
  assert whole.prompt_samples == 32_000


def test_prompts_of_other_rates_and_types_are_accepted(miniature_bundle):
  prompt = audio.resample(melody(1.0), RATE, 44_100)
  result = miniature_bundle.continue_audio((prompt * 32_767).astype(np.int16), 44_100, duration=0.5)
  assert result.waveform.shape == (24_000,)


def test_unconditional_needs_no_prompt(miniature_bundle):
  result = made(miniature_bundle, mode="unconditional", num_samples=3)
  assert result.waveform.shape == (3, 9_600) and result.prompt_samples == 0
  assert len(np.unique(result.waveform, axis=0)) == 3
  assert result.new_seconds == pytest.approx(1.8)


def test_resynthesis_keeps_the_semantic_tokens(miniature_bundle):
  prompt = melody(1.03)
  tokens = miniature_bundle.encode(prompt, RATE)
  result = made(miniature_bundle, prompt, mode="resynthesis", duration=None)
  assert result.waveform.shape == prompt.shape
  np.testing.assert_array_equal(result.tokens.semantic, collapse_repeats(tokens.semantic))
  assert not np.array_equal(result.tokens.codes, tokens.codes)
  short = made(miniature_bundle, prompt, mode="resynthesis", duration=0.5)
  assert short.waveform.shape == (8_000,)


def test_resynthesis_after_a_voice_returns_the_content_only(miniature_bundle):
  prompt, voice = melody(1.03), melody(0.9, seed=3)
  settings = {"mode": "resynthesis", "duration": None, "voice": voice, "prompt_seconds": 0.8}
  result = made(miniature_bundle, prompt, **settings)
  assert result.waveform.shape == prompt.shape and result.prompt_samples == 0
  tokens = miniature_bundle.encode(voice[:12_800], RATE)
  np.testing.assert_array_equal(result.tokens.codes[:40], tokens.codes)
  decoded = miniature_bundle.decode(result.tokens.codes)[12_800:]
  np.testing.assert_allclose(result.waveform, decoded[: len(prompt)], atol=1e-6)


def test_time_and_progress_are_reported_for_each_stage(miniature_bundle):
  events = []
  result = made(
    miniature_bundle, melody(1.0), duration=2.5, progress=lambda *event: events.append(event)
  )
  assert {"encode", "semantic", "coarse", "fine", "decode"} <= set(result.timings)
  assert all(seconds >= 0 for seconds in result.timings.values())
  assert {stage for stage, _, _ in events} == {"semantic", "coarse", "fine"}
  assert all(0 <= done <= total for _, done, total in events)


@pytest.mark.parametrize(
  "change, words",
  [
    ({"duration": None}, "needs a duration"),
    ({"duration": 0}, "duration is 0 s, shorter than one sample"),
    ({"duration": float("nan")}, "duration is nan; give a number from 0 to 3_600"),
    ({"duration": 1e9}, "duration is 1000000000.0; give a number"),
    ({"num_samples": 0}, "num_samples is 0"),
    ({"seed": -1}, "seed is -1"),
    ({"mode": "sing"}, "mode 'sing' is not one of continuation, unconditional, resynthesis"),
    ({"mode": "unconditional"}, "takes no prompt"),
    ({"prompt_audio": "loud"}, "prompt_audio 'loud'"),
    ({"prompt_seconds": 0}, "prompt_seconds is 0; give a number from 0.4"),
    ({"prompt_seconds": 0.2}, "prompt_seconds is 0.2; give a number from 0.4"),
    ({"temperature": {"coarse": -1.0}}, "coarse: temperature is -1"),
    ({"top_k": {"fine": -3}}, "fine: top_k is -3"),
    ({"top_p": {"semantic": 0.0}}, "semantic: top_p is 0"),
  ],
)
def test_settings_out_of_range_are_refused(miniature_bundle, change, words):
  with pytest.raises(UserError, match=words):
    made(miniature_bundle, melody(1.0), **change)


def test_invalid_prompts_are_refused(miniature_bundle):
  for waveform, words in [
    (np.zeros(RATE, np.float32), "the prompt is silent"),
    (np.full(RATE, np.inf), "infinite"),
    (None, "needs a prompt"),
  ]:
    with pytest.raises(UserError, match=words):
      made(miniature_bundle, waveform)


def test_missing_stages_are_reported(miniature_bundle):
  bare = dataclasses.replace(miniature_bundle, stages={})
  with pytest.raises(UserError, match="has no stages to sample with"):
    made(bare, melody(1.0))
  coarse_only = dataclasses.replace(
    miniature_bundle, stages={"coarse": miniature_bundle.stages["coarse"]}
  )
  with pytest.raises(UserError, match="has no semantic stage; it can resynthesize only"):
    made(coarse_only, melody(1.0))
  result = made(coarse_only, melody(1.0), mode="resynthesis", duration=None)
  assert result.tokens.codes.shape == (50, 2)


def test_the_command_equals_the_api(miniature_bundle, folder, prompt, tmp_path, run_cli):
  done = run_cli(
    "sample", "--prompt", prompt, "--output", tmp_path / "out.wav", "--bundle", folder,
    "--prompt_seconds", 1, "--duration", 0.6, "--seed", 3, "--temperature_coarse", 0.9,
    "--top_k_fine", 5, "--top_p_semantic", 0.9, "--save_tokens",
  )  # fmt: skip
  assert done.code == 0, done.err
  assert "out.wav: 1.60 s" in done.out and "real-time factor" in done.out
  for stage in ("semantic", "coarse", "fine"):
    assert f"{stage} " in done.out
  expected = made(
    miniature_bundle, melody(2.0), prompt_seconds=1, seed=3, temperature={"coarse": 0.9},
    top_k={"fine": 5}, top_p={"semantic": 0.9},
  )  # fmt: skip
  waveform, _ = audio.read_audio(tmp_path / "out.wav")
  np.testing.assert_allclose(waveform, expected.waveform, atol=1 / 32_000)
  tokens = token_file.load_tokens(tmp_path / "out.npz")
  np.testing.assert_array_equal(tokens.codes, expected.tokens.codes)
  decoded = run_cli(
    "decode", tmp_path / "out.npz", "--output", tmp_path / "again.wav", "--bundle", folder
  )
  assert decoded.code == 0, decoded.err
  again, _ = audio.read_audio(tmp_path / "again.wav")
  np.testing.assert_allclose(again[: len(waveform)], waveform, atol=1e-4)


@pytest.mark.parametrize("by_name", [False, True])
def test_every_sampling_flag_reaches_its_stage(
  miniature_bundle, folder, prompt, tmp_path, run_cli, by_name
):
  by_stage = {
    "temperature": {"semantic": 1.2, "coarse": 0.7, "fine": 0.4},
    "top_k": {"semantic": 9, "coarse": 7, "fine": 5},
    "top_p": {"semantic": 0.9, "coarse": 0.8, "fine": 0.95},
  }
  others = {"prompt_seconds": 1.0, "duration": 0.6, "seed": 2, "prompt_audio": "none"}
  if by_name:
    flags = [(f"--{n}", ",".join(f"{s}={v}" for s, v in of.items())) for n, of in by_stage.items()]
  else:
    flags = [(f"--{n}_{s}", v) for n, of in by_stage.items() for s, v in of.items()]
  flags += [(f"--{name}", value) for name, value in others.items()]
  done = run_cli(
    "sample", "--prompt", prompt, "--output", tmp_path / "out.wav", "--bundle", folder,
    *(word for pair in flags for word in pair),
  )  # fmt: skip
  assert done.code == 0, done.err
  waveform, _ = audio.read_audio(tmp_path / "out.wav")
  expected = made(miniature_bundle, melody(2.0), **by_stage, **others)
  np.testing.assert_allclose(waveform, expected.waveform, atol=1 / 32_000)
  plain = made(miniature_bundle, melody(2.0), prompt_seconds=1.0, seed=2, prompt_audio="none")
  assert not np.array_equal(plain.tokens.codes, expected.tokens.codes)


def test_the_command_resynthesizes(miniature_bundle, folder, prompt, tmp_path, run_cli):
  done = run_cli(
    "sample", "--prompt", prompt, "--output", tmp_path / "out.wav", "--bundle", folder,
    "--mode", "resynthesis", "--duration", 1,
  )  # fmt: skip
  assert done.code == 0, done.err
  waveform, _ = audio.read_audio(tmp_path / "out.wav")
  expected = made(miniature_bundle, melody(1.0), mode="resynthesis", duration=None)
  np.testing.assert_allclose(waveform, expected.waveform, atol=1 / 32_000)


def test_the_same_seed_gives_the_same_file(folder, prompt, tmp_path, run_cli):
  contents = []
  for name in ("a.wav", "b.wav"):
    done = run_cli(
      "sample", "--prompt", prompt, "--output", tmp_path / name, "--bundle", folder,
      "--duration", 0.5, "--seed", 7,
    )  # fmt: skip
    assert done.code == 0, done.err
    contents.append((tmp_path / name).read_bytes())
  assert contents[0] == contents[1]


def test_several_samples_are_numbered(folder, tmp_path, run_cli):
  pytest.importorskip("matplotlib")
  done = run_cli(
    "sample", "--mode", "unconditional", "--output", tmp_path / "out.flac", "--bundle", folder,
    "--duration", 0.5, "--num_samples", 2, "--save_tokens", "--plot", tmp_path / "picture.png",
  )  # fmt: skip
  assert done.code == 0, done.err
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "out_1.flac", "out_1.npz", "out_2.flac", "out_2.npz", "picture_1.png", "picture_2.png",
  ]  # fmt: skip
  for number in range(2):
    found = read_provenance(tmp_path / f"out_{number + 1}.flac")
    assert found and (found.mode, found.seed, found.sample) == ("unconditional", 0, number)


def test_the_provenance_has_the_prompt(miniature_bundle, folder, prompt, tmp_path, run_cli):
  for kept, seconds in (("original", 1.0), ("none", 0.0)):
    done = run_cli(
      "sample", "--prompt", prompt, "--output", tmp_path / "out.wav", "--bundle", folder,
      "--prompt_seconds", 1, "--duration", 0.5, "--seed", 4, "--prompt_audio", kept,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = read_provenance(tmp_path / "out.wav")
    assert found == Provenance(
      "miniature", miniature_bundle.token_hash, "continuation", 4, 0, seconds, kept
    )


def test_the_provenance_has_the_strength_of_the_mark(miniature_bundle, prompt, tmp_path, run_cli):
  mark = Watermark(WatermarkConfig(2, 16, "0" * 32, strength=3.0), np.tile(np.arange(16), (2, 1)))
  folder = save_bundle(dataclasses.replace(miniature_bundle, watermark=mark), tmp_path / "marked")
  (tmp_path / "key").write_bytes(b"0123456789abcdef")
  arguments = ["--prompt", prompt, "--output", tmp_path / "out.wav", "--bundle", folder]
  arguments += ["--prompt_seconds", 1, "--duration", 0.5]
  for more, strength in (
    ((), 3.0),
    (("--watermark", "4", "--watermark_key", tmp_path / "key", "--watermark_payload=c3"), 4.0),
    (("--watermark", "off"), 0.0),
  ):
    done = run_cli("sample", *arguments, *more)
    assert done.code == 0, done.err
    found = read_provenance(tmp_path / "out.wav")
    assert found is not None and found.watermark == strength
  for more, words in (
    (("--watermark", "on"), "neither off nor a strength"),
    (("--watermark", "200"), "watermark is 200.0; give a number from 0 to 100"),
    (("--watermark_key", tmp_path / "none"), "is not a file"),
    (("--watermark_payload", "c3c3"), "'c3c3' is no payload; give 2 or 8 hexadecimal digits"),
    (("--watermark_payload", "c3", "--watermark", "off"), "needs a watermark, and it is off"),
  ):
    done = run_cli("sample", *arguments, *more)
    assert done.code == 2 and words in done.err


def test_a_certificate_signs_the_file(folder, prompt, tmp_path, run_cli):
  c2pa = pytest.importorskip("c2pa", reason="needs the extra c2pa")
  from tests.io.certificates import write_chain

  chain, key, _ = write_chain(tmp_path)
  given = [f"--c2pa_certificate={chain}", f"--c2pa_private_key={key}"]
  arguments = ["--prompt", prompt, "--bundle", folder, "--duration=0.5", "--prompt_seconds=1"]
  path = tmp_path / "out.mp3"
  for kept, source in (
    ("none", "trainedAlgorithmicMedia"),
    ("codec", "compositeWithTrainedAlgorithmicMedia"),
  ):
    done = run_cli("sample", *arguments, "--output", path, f"--prompt_audio={kept}", *given)
    assert done.code == 0, done.err
    with c2pa.Reader(str(path)) as reader:
      assert reader.get_validation_state() == "Valid" and f"/{source}" in reader.json()
    assert read_provenance(path) is not None
  for more, words in (
    (("--output", path, given[0]), "are needed together"),
    (("--output", tmp_path / "out.ogg", *given), "cannot sign"),
    (("--output", path, given[0], f"--c2pa_private_key={chain}"), "is no private key"),
  ):
    done = run_cli("sample", *arguments, *more)
    assert done.code == 2 and words in done.err


def test_errors_are_one_line_and_write_no_file(folder, prompt, tmp_path, run_cli):
  soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
  soundfile.write(tmp_path / "short.wav", melody(0.31), RATE)
  (tmp_path / "text.wav").write_text("no sound " * 50)
  content = prompt.read_bytes()
  (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
  before = sorted(tmp_path.iterdir())
  out, p = ("--output", tmp_path / "out.wav"), ("--prompt", prompt)
  for arguments, words in [
    (p, "--output is required"),
    (out, "--prompt is required"),
    ((*out, *p, "extra"), "unexpected argument 'extra'"),
    ((*out, *p, "--mode", "unconditional"), "takes no --prompt"),
    ((*out, "--prompt", tmp_path / "no.wav"), "no.wav does not exist"),
    ((*out, "--prompt", tmp_path), "is a folder"),
    ((*out, "--prompt", tmp_path / "text.wav"), "text.wav is not a supported"),
    ((*out, "--prompt", tmp_path / "cut.wav"), "cut.wav is truncated"),
    ((*out, "--prompt", tmp_path / "silent.wav"), "silent.wav is silent"),
    ((*out, "--prompt", tmp_path / "short.wav"), "short.wav is 0.31 s long; at least 0.40 s"),
    ((*out, *p, "--num_samples", 0), "--num_samples is 0"),
    ((*out, *p, "--num_samples", 10**9), "--num_samples is 1000000000; give a whole number"),
    ((*out, *p, "--top_k_coarse", 10**10), "coarse: top_k is 10000000000; give a whole number"),
    ((*out, *p, "--duration", 1e-9), "duration is 1e-09 s, shorter than one sample"),
    ((*out, *p, "--prompt_seconds", "inf"), "--prompt_seconds is inf; give a number"),
    ((*out, *p, "--duration", -1), "duration is -1"),
    ((*out, *p, "--prompt_seconds", 0), "--prompt_seconds is 0"),
    ((*out, *p, "--temperature_fine", -1), "fine: temperature is -1"),
    ((*out, *p, "--plot", tmp_path / "a.jpg"), "must end in .png"),
    ((*out, *p, "--bundle", "opera"), "no bundle 'opera'"),
    ((*p, "--output", tmp_path / "out.txt"), "use one of .aif"),
    ((*p, "--output", tmp_path / "no" / "out.wav"), "does not exist; create it"),
    ((*p, "--output", tmp_path), "no extension"),
  ]:
    bundle = () if "--bundle" in arguments else ("--bundle", folder)
    done = run_cli("sample", *arguments, *bundle)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
  assert run_cli("sample", *out, *p, "--mode", "sing").code == 2
  assert run_cli("sample", *out, *p, "--temprature_fine", "1").code == 2
  assert sorted(tmp_path.iterdir()) == before


def test_an_output_that_cannot_be_written_is_refused_before_sampling(
  folder, prompt, tmp_path, run_cli, monkeypatch
):
  def not_yet(*_, **__):
    raise AssertionError("sampling began")

  monkeypatch.setattr(continuation, "continue_audio", not_yet)
  done = run_cli(
    "sample", "--prompt", prompt, "--bundle", folder, "--output", tmp_path / "no" / "out.wav"
  )
  assert done.code == 2


def test_progress_is_shown_on_a_terminal(capfd):
  show = sample._progress_bar()
  for done in (10, 20, 30, 10, 30):
    show("coarse", done, 30)
  shown = capfd.readouterr().err
  assert shown.count("coarse: 100%") == 2 and "30/30" in shown


def test_importing_sample_stays_light():
  program = (
    "import sys, audiolm_jax.sample, audiolm_jax.bundles.continuation\n"
    "heavy = 'tensorflow seqio orbax torch matplotlib numba librosa gin clu apache_beam optax'\n"
    "print([m for m in heavy.split() if m in sys.modules])\n"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_importing_the_package_does_not_import_jax():
  program = "import sys, audiolm_jax; print('jax' in sys.modules, 'numpy' in sys.modules)"
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert done.stdout.strip() == "False False", done.stdout + done.stderr


def test_the_command_line_works_as_a_program(folder, prompt, tmp_path):
  command = [sys.executable, "-m", "audiolm_jax.sample", "--bundle", str(folder)]
  out = ["--output", str(tmp_path / "out.wav"), "--duration", "0.5"]
  done = subprocess.run(
    [*command, *out, "--prompt", str(prompt)],
    capture_output=True,
    text=True,
    stdin=subprocess.DEVNULL,
  )
  assert done.returncode == 0 and "real-time factor" in done.stdout, done.stderr
  assert not done.stderr, "no warnings, and no progress bar without a terminal"
  assert soundfile.info(tmp_path / "out.wav").frames == 40_000
  done = subprocess.run([*command, "--prompt", "no.wav", *out], capture_output=True, text=True)
  assert done.returncode == 2 and done.stderr == "error: no.wav does not exist\n"
  done = subprocess.run([*command, "--duratoin", "3"], capture_output=True, text=True)
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  help_text = subprocess.run([*command, "--help"], capture_output=True, text=True).stdout
  assert "--prompt_seconds" in help_text and "python -m audiolm_jax.sample" in help_text
