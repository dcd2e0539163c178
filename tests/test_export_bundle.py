"""Putting trained parts together: in two steps, tokenizers first, as a training run does."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from audiolm_jax.bundles import load_bundle, save_bundle, tensors
from audiolm_jax.core.modules import Params
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.data.token_store import TokenStoreWriter
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig
from audiolm_jax.semantic.kmeans import KMeansReport
from audiolm_jax.trainables import registry, semantic_tokenizer
from audiolm_jax.trainables.codec import CodecTrainingConfig
from audiolm_jax.trainables.stage import StageTrainingConfig
from tests.conftest import melody


@pytest.fixture
def runs(miniature_bundle, detector_run, detector, tmp_path, monkeypatch):
  """Stands in for finished training runs; what they have learned is the miniature bundle."""

  learned: dict[str, tuple[str, object, Params]] = {
    "codec": (
      "codec",
      CodecTrainingConfig(model=miniature_bundle.codec.config),
      miniature_bundle.codec.params,
    )
  }
  for name, stage in miniature_bundle.stages.items():
    config = StageTrainingConfig(stage.spec, stage.config)
    learned[f"{name}_stage"] = (f"{name}_stage", config, stage.params)
  learned["detector"] = ("detector", detector_run.trainable.config, detector.params)
  monkeypatch.setattr(
    registry, "load_inference_params", lambda folder, step=None: learned[str(folder)]
  )
  report = KMeansReport(100, 16, (0.5,), (100,), 15, 0, 1.0)
  semantic_tokenizer.save_tokenizer(tmp_path / "kmeans", miniature_bundle.semantic, report)
  return tmp_path


def export_tokenizers(run_cli, runs, *more):
  return run_cli(
    "export_bundle", "--codec_dir", "codec", "--kmeans", runs / "kmeans",
    "--output", runs / "tokenizers", *more,
  )  # fmt: skip


def write_store(runs, token_hash):
  writer = TokenStoreWriter(runs / "tokens", token_hash)

  def add(name, semantic, split):
    streams = {"semantic": semantic, "codes": np.zeros((100, 4), int)}
    writer.add(TokenClip(name, streams, split, seconds=2.0))

  # 50 steps are 2 s; 10 and 30 tokens are left when repeats are collapsed.
  add("a", np.repeat(np.arange(10), 5), "train")
  add("b", np.repeat(np.arange(30) % 15, 2)[:50], "train")
  add("c", np.zeros(50, int), "valid")
  writer.finish()
  return runs / "tokens"


def export_stages(run_cli, runs, *more):
  return run_cli(
    "export_bundle", "--bundle", runs / "tokenizers", "--token_store", runs / "tokens",
    "--stage_dir", "semantic=semantic_stage", "--stage_dir", "coarse=coarse_stage",
    "--stage_dir", "fine=fine_stage", "--output", runs / "mine", *more,
  )  # fmt: skip


@pytest.mark.parametrize("width", ["--float16", "--storage=float32", "--storage=int8"])
def test_tokenizers_then_stages_make_a_bundle_that_samples(miniature_bundle, runs, run_cli, width):
  done = export_tokenizers(run_cli, runs, width)
  assert done.code == 0 and "codec, semantic; " in done.out, done.err
  tokenizers = load_bundle(runs / "tokenizers")
  assert tokenizers.name == "tokenizers" and not tokenizers.stages
  write_store(runs, tokenizers.token_hash)

  (runs / "card.md").write_text("# Mine\n")
  (runs / "about.json").write_text(json.dumps({"licence": "CC0"}))
  done = export_stages(
    run_cli, runs, width, "--name", "my own", "--description", "A test.",
    "--model_card", runs / "card.md", "--metadata", runs / "about.json",
    "--temperatures", "semantic=0.7,coarse=1",
  )  # fmt: skip
  assert done.code == 0, done.err
  assert "codec, semantic, semantic_stage, coarse_stage, fine_stage" in done.out
  bundle = load_bundle(runs / "mine")
  assert (bundle.name, bundle.description, bundle.model_card) == ("my own", "A test.", "# Mine\n")
  assert bundle.metadata == {"licence": "CC0"}
  assert bundle.temperatures == {"semantic": 0.7, "coarse": 1.0}
  assert bundle.token_hash == tokenizers.token_hash
  assert bundle.semantic_rate == pytest.approx((10 + 25) / 4.0)
  for name in ("codec", "semantic"):
    kept, new = (tensors.hash_params(getattr(b, name).params) for b in (tokenizers, bundle))
    assert kept == new
  result = bundle.continue_audio(melody(1.0), 16_000, duration=0.6)
  if width == "--storage=float32":
    same_rate = dataclasses.replace(miniature_bundle, semantic_rate=bundle.semantic_rate)
    expected = same_rate.continue_audio(
      melody(1.0), 16_000, duration=0.6, temperature={"semantic": 0.7, "coarse": 1.0}
    )
    np.testing.assert_array_equal(result.tokens.codes, expected.tokens.codes)


def test_tokens_of_other_tokenizers_are_refused(runs, run_cli):
  assert export_tokenizers(run_cli, runs).code == 0
  write_store(runs, "0123456789abcdef")
  done = export_stages(run_cli, runs)
  assert done.code == 2 and "are of other tokenizers" in done.err
  assert not (runs / "mine").exists()


def test_stages_that_do_not_fit_the_tokenizers_are_refused(
  miniature_bundle, runs, run_cli, monkeypatch
):
  assert export_tokenizers(run_cli, runs).code == 0
  write_store(runs, load_bundle(runs / "tokenizers").token_hash)
  stage = miniature_bundle.stages["coarse"]
  original = registry.load_inference_params

  def other(folder, step=None):
    component, config, params = original(folder)
    if component.endswith("_stage"):
      spec = dataclasses.replace(config.spec, codebook_size=32)
      config = dataclasses.replace(config, spec=spec)
    return component, config, params

  monkeypatch.setattr(registry, "load_inference_params", other)
  done = export_stages(run_cli, runs)
  assert done.code == 2 and "a vocabulary of 32 in codes" in done.err, (done.err, stage.spec)
  assert not (runs / "mine").exists()


def test_a_decoder_that_was_trained_on_replaces_that_of_a_bundle(
  miniature_bundle, runs, run_cli, monkeypatch
):
  assert export_tokenizers(run_cli, runs, "--storage=int8").code == 0
  tokenizers = load_bundle(runs / "tokenizers")
  write_store(runs, tokenizers.token_hash)
  assert export_stages(run_cli, runs, "--temperatures", "coarse=1").code == 0
  before = load_bundle(runs / "mine")
  config = CodecTrainingConfig(model=before.codec.config)  # pyright: ignore[reportAttributeAccessIssue]: this bundle's codec has it

  def learn(**parts):
    params = dict(before.codec.params) | parts  # pyright: ignore[reportAttributeAccessIssue]: this bundle's codec has it
    learned = lambda folder, step=None: ("codec", config, params)  # noqa: E731
    monkeypatch.setattr(registry, "load_inference_params", learned)

  decoder = jax.tree.map(lambda x: 1.1 * x, before.codec.params["decoder"])  # pyright: ignore[reportAttributeAccessIssue]: this bundle's codec has it
  learn(decoder=decoder)
  again = ("--bundle", runs / "mine", "--codec_dir", "decoder", "--output", runs / "mine")
  done = run_cli("export_bundle", *again, "--storage=int8")
  assert done.code == 0, done.err
  after = load_bundle(runs / "mine")
  assert after.token_hash == before.token_hash and list(after.stages) == list(before.stages)
  assert (after.semantic_rate, after.temperatures) == (before.semantic_rate, {"coarse": 1.0})
  for old, new in zip(
    *(jax.tree.leaves(p) for p in (decoder, after.codec.params["decoder"])),  # pyright: ignore[reportAttributeAccessIssue]: this bundle's codec has it
    strict=True,
  ):
    np.testing.assert_allclose(new, old, atol=0.02 * np.abs(old).max())

  learn(codebooks=before.codec.params["codebooks"] + 1)  # pyright: ignore[reportAttributeAccessIssue]: this bundle's codec has it
  done = run_cli("export_bundle", *again)
  assert done.code == 2 and "the new tokenizers produce others" in done.err, done.err
  assert load_bundle(runs / "mine").token_hash == before.token_hash
  done = run_cli("export_bundle", *again, "--tokenizers_only")
  assert done.code == 0, done.err
  alone = load_bundle(runs / "mine")
  assert alone.token_hash != before.token_hash and not alone.stages and not alone.model_card


def test_what_cannot_be_exported_is_named(runs, run_cli):
  export_tokenizers(run_cli, runs)
  write_store(runs, load_bundle(runs / "tokenizers").token_hash)
  (runs / "bad.json").write_text("{")
  tokenizers = ("--bundle", runs / "tokenizers")
  store = ("--token_store", runs / "tokens")
  for arguments, words in [
    (("--codec_dir", "codec"), "--codec_dir and --kmeans are needed"),
    ((*tokenizers, "--stage_dir", "coarse=coarse_stage"), "--token_store and --stage_dir"),
    ((*store, "--stage_dir", "coarse=coarse_stage"), "stages need --bundle"),
    ((*tokenizers, *store, "--stage_dir", "coarse=fine_stage"), "is a run of 'fine_stage'"),
    ((*tokenizers, "--metadata", runs / "bad.json"), "bad.json is not JSON"),
    ((*tokenizers, "--model_card", runs / "no.md"), "cannot read"),
    ((*tokenizers, "--temperatures", "coarse"), "'coarse' is not STAGE=VALUE"),
    (("--codec_dir", "codec", "--kmeans", runs / "none"), "run fit_kmeans"),
    ((*tokenizers, "--filling", "{}"), "the bundle has none"),
  ]:
    done = run_cli("export_bundle", *arguments, "--output", runs / "mine")
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
  assert "--output is needed" in run_cli("export_bundle", *tokenizers).err
  assert not (runs / "mine").exists()


def test_a_detector_comes_last_and_stays_as_a_watermark_does(
  miniature_bundle, detector, runs, run_cli
):
  assert export_tokenizers(run_cli, runs).code == 0
  mark = Watermark(WatermarkConfig(2, 16, "0" * 32), np.tile(np.arange(16), (2, 1)))
  marked = dataclasses.replace(load_bundle(runs / "tokenizers"), watermark=mark)
  save_bundle(marked, runs / "tokenizers")
  arguments = ("export_bundle", "--bundle", runs / "tokenizers")
  done = run_cli(*arguments, "--detector_dir", "detector", "--output", runs / "with")
  assert done.code == 0 and "codec, semantic, detector, watermark; " in done.out, done.err
  again = run_cli("export_bundle", "--bundle", runs / "with", "--output", runs / "again")
  assert again.code == 0 and "detector" in again.out
  sound = melody(1.0)
  kept = load_bundle(runs / "again").watermark
  assert kept is not None and kept.config == mark.config
  found = load_bundle(runs / "again").detector
  assert found is not None and found.score([sound]) == pytest.approx(detector.score([sound]))
  wrong = run_cli(*arguments, "--detector_dir", "codec", "--output", runs / "wrong")
  assert wrong.code == 2 and "give a run of 'detector'" in wrong.err
