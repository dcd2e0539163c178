"""What earlier versions wrote loads and gives the same tokens; tests/golden/formats holds it."""

import dataclasses
import json
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from audiolm_jax.bundles import load_bundle, save_bundle
from audiolm_jax.bundles.tensors import hash_params
from audiolm_jax.data import token_store
from audiolm_jax.data.datasets import InMemoryTokens
from audiolm_jax.io import token_file
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip
from audiolm_jax.trainables.codec import CodecTrainable
from audiolm_jax.trainables.detector import DetectorTrainable
from audiolm_jax.trainables.registry import load_inference_params
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.trainables.w2v_bert import SemanticTrainable
from audiolm_jax.training import trainer
from audiolm_jax.training.checkpoints import Checkpoints, check_same_model, describe_model
from audiolm_jax.training.partitioning import unbox

GOLDEN = Path(__file__).parent / "golden" / "formats"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.fixture(scope="module")
def bundle():
  return load_bundle(GOLDEN / "bundle_2")


def test_a_bundle_of_format_2_is_read_and_saved_as_one_of_today(bundle, tmp_path):
  assert bundle.token_hash == EXPECTED["token_hash"]
  assert [(n, s.spec.kind) for n, s in bundle.stages.items()] == [
    (name, "autoregressive") for name in ("semantic", "coarse", "fine")
  ]
  assert bundle.temperatures == {"coarse": 0.9}
  again = load_bundle(save_bundle(bundle, tmp_path / "new"))
  assert json.loads((tmp_path / "new" / "bundle.json").read_text())["stages"][1] == {
    "name": "coarse",
    "kind": "autoregressive",
  }
  for name, stage in bundle.stages.items():
    assert again.stages[name].spec == stage.spec
    assert hash_params(again.stages[name].params) == hash_params(stage.params)


def _random_clip(frames, total, seed):
  rng = np.random.default_rng(seed)
  semantic = rng.integers(0, 16, -(-frames // 2)).astype(np.int32)
  codes = rng.integers(0, 16, (frames, 4)).astype(np.int32)
  return Clip(total, {"semantic": semantic, "codes": codes})


@pytest.mark.parametrize("repeats", ["collapsed", "kept"])
def test_the_same_seed_gives_the_tokens_that_it_gave(bundle, repeats):
  parts = dict(bundle.stages)
  if repeats == "kept":
    for name, stage in parts.items():
      longest = 3 if name == "semantic" else None
      spec = dataclasses.replace(stage.spec, collapse_repeats=False, longest_run=longest)
      parts[name] = dataclasses.replace(stage, spec=spec)
  cascade = Cascade(
    parts, semantic_rate=8.0, retokenize=lambda codes: codes[::2, 0].astype(np.int32)
  )
  expected = np.load(GOLDEN / "sampled.npz")
  made = cascade.sample(
    [_random_clip(31, 170, 1), _random_clip(60, 90, 2)],
    seed=5,
    num_samples=2,
    options=CascadeOptions(overlap_seconds=0.6),
  )
  for row in range(4):
    for key in ("semantic", "codes"):
      np.testing.assert_array_equal(
        made.streams[key][row], expected[f"{repeats}_continued_{key}_{row}"]
      )
  made = cascade.sample([Clip(70)], seed=3)
  for key in ("semantic", "codes"):
    np.testing.assert_array_equal(made.streams[key][0], expected[f"{repeats}_unconditional_{key}"])
  semantic = np.random.default_rng(4).integers(0, 16, 35).astype(np.int32)
  made = cascade.sample([Clip(70, given={"semantic": semantic})], seed=3)
  np.testing.assert_array_equal(made.codes[0], expected[f"{repeats}_resynthesis_codes"])


def test_a_token_store_of_format_1_has_its_clips_and_accepts_new_ones(tmp_path):
  shutil.copytree(GOLDEN / "store_1", tmp_path / "store")
  info = token_store.read_info(tmp_path / "store")
  assert (info.streams["semantic"].size, info.streams["semantic"].rate) == (16, 25.0)
  assert (info.streams["codes"].levels, info.streams["codes"].rate) == (4, 50.0)
  assert info.tokens == {"semantic": 250, "codes": 4 * 498}
  writer = token_store.TokenStoreWriter(tmp_path / "store", info.token_hash)
  assert "clip3" in writer
  writer.add(dataclasses.replace(token_store.TokenStore(GOLDEN / "store_1").clips()[0], id="new"))
  writer.finish()
  store = token_store.TokenStore(tmp_path / "store", EXPECTED["token_hash"])
  assert [clip.id for clip in store.clips("train")] == ["clip0", "clip1", "clip2", "new"]
  for i, clip in enumerate(store.clips()[:4]):
    rng, steps = np.random.default_rng(i), 25 * (i + 1)
    np.testing.assert_array_equal(clip.streams["semantic"], rng.integers(0, 16, steps))
    np.testing.assert_array_equal(
      clip.streams["codes"], rng.integers(0, 16, (2 * steps - i % 2, 4))
    )


def test_a_token_file_of_format_1_has_the_tokens_it_had():
  found = token_file.load_tokens(GOLDEN / "tokens_1.npz")
  rng = np.random.default_rng(9)
  np.testing.assert_array_equal(found.tokens["semantic"], rng.integers(0, 16, 20))
  np.testing.assert_array_equal(found.codes, rng.integers(0, 16, (40, 4)))
  assert found.streams["semantic"].rate is None  # its repeats are collapsed
  assert (found.streams["codes"].rate, found.sample_rate) == (50.0, 16_000)
  assert (found.bundle, found.token_hash) == ("miniature", EXPECTED["token_hash"])


def test_an_earlier_run_resumes_from_its_checkpoint_with_the_same_batches(tmp_path):
  shutil.copytree(GOLDEN / "run", tmp_path / "run")
  component, config, params = load_inference_params(tmp_path / "run")
  assert component == "coarse_stage" and hash_params(params) == EXPECTED["params_at_2"]
  assert config.spec.kind == "autoregressive" and isinstance(config.transformer, TransformerConfig)
  spec = stages.coarse_stage(
    crop_seconds=1.0, num_target_quantizers=2, num_clusters=16, codebook_size=16
  )
  shape = TransformerConfig(num_layers=1, dim=8, num_heads=2, mlp_dim=8, dropout_rate=0.1)
  model = StageTrainable(StageTrainingConfig(spec, shape, ema_decay=0.9))
  assert config == model.config
  data = InMemoryTokens(str(GOLDEN / "store_1"), spec, batch_size=2)
  for name, values in next(data()).items():
    assert values.ravel()[:40].tolist() == EXPECTED["first_batch"][name]
  config = trainer.TrainConfig(
    tmp_path / "run", total_steps=3, tensorboard=False, products="float32", log_period=1
  )
  result = trainer.train(config, model=model, train_dataset=data)
  assert result.finished and result.step == 3


def _waveform(samples):
  return np.random.default_rng(0).uniform(-0.3, 0.3, (2, samples)).astype(np.float32)


@pytest.mark.parametrize(
  ("component", "model_class", "samples", "more"),
  [
    ("codec", CodecTrainable, 3200, {}),
    ("semantic", SemanticTrainable, 16_000, {"length": [16_000, 12_000]}),
    ("detector", DetectorTrainable, 8000, {"length": [8000, 7000], "label": [0, 1]}),
  ],
)
def test_a_checkpoint_of_before_has_its_parameters_and_gives_the_losses_that_it_gave(
  tmp_path, component, model_class, samples, more
):
  # Each run has two steps of a miniature on the same batch, with keys 0 and 1.
  with tarfile.open(GOLDEN / "runs.tar.xz") as archive:
    archive.extractall(tmp_path, filter="data")
  folder, expected = tmp_path / f"run_{component}", EXPECTED["runs"][component]
  found, config, params = load_inference_params(folder)
  assert found == component and hash_params(params) == expected["params_at_2"]
  model, batch = model_class(config), {"waveform": _waveform(samples)}
  batch |= {name: np.array(values, np.int32) for name, values in more.items()}
  check_same_model(folder, describe_model(model, batch, 0), type(config))
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
    unbox(jax.eval_shape(model.init, jax.random.key(0), batch)),
  )
  checkpoints = Checkpoints(folder, keep=None)
  restored = checkpoints.restore(abstract)
  checkpoints.close()
  assert restored is not None and restored.step == 2
  parts = model.parts(2)
  step = jax.jit(model.train_step, static_argnums=tuple(range(3, 3 + len(parts))))
  state, metrics = step(restored.state, batch, jax.random.key(2), *parts)
  assert state.step == 3 and set(metrics) >= set(expected["metrics_of_step_3"])
  for name, value in expected["metrics_of_step_3"].items():
    assert float(metrics[name]) == pytest.approx(value, rel=1e-4, abs=1e-5), name
