"""Shared settings: the CPU backend, one persistent compilation cache, deterministic keys."""

import gc
import os
import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["AUDIOLM_JAX_AMX"] = "off"  # the same products on every machine
# Tests compile more than they compute: without LLVM's optimizations they need a quarter less time,
# and without fusion emitters, a flag that jaxlib 0.10 has, compiling takes about half of the rest.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0"
  + " --xla_cpu_use_fusion_emitters=false" * metadata.version("jaxlib").startswith("0.10."),
)
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "audiolm_jax_test_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jaxtyping
import numpy as np
import pytest

from tests import shapes

MAPPINGS = 20_000

sys.meta_path.insert(0, shapes.UncheckedFinder)  # before the import hook of jaxtyping


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
  """Lets compiled programs go before there are too many.

  Each is held in memory mappings, of which Linux allows a process 65,530: with all tests in two
  processes, one of them would end in a crash of the compiler.
  """
  yield
  maps = Path("/proc/self/maps")
  if maps.exists() and len(maps.read_bytes().splitlines()) > MAPPINGS:
    import jax

    jax.clear_caches()
    gc.collect()


@pytest.fixture
def types_not_checked():
  """Lets a test give values of other types than a signature states, whose errors it reads."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


def melody(seconds: float, seed: int = 0) -> np.ndarray:
  """Notes of a third of a second with overtones and a little noise, 16 kHz float32 [samples]."""
  rng = np.random.default_rng(seed)
  time = np.arange(round(seconds * 16_000)) / 16_000
  pitch = rng.choice([220.0, 262.0, 330.0, 392.0, 440.0], size=int(seconds * 3) + 1)
  phase = 2 * np.pi * np.cumsum(pitch[(time * 3).astype(int)]) / 16_000
  sound = 0.3 * np.sin(phase) + 0.15 * np.sin(2 * phase) + 0.01 * rng.standard_normal(len(time))
  return sound.astype(np.float32)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
  """White noise about as loud as a melody, 16 kHz float32 [samples]."""
  rng = np.random.default_rng(seed)
  return (0.2 * rng.standard_normal(round(seconds * 16_000))).clip(-1, 1).astype(np.float32)


def forced_devices(count: int) -> dict[str, str]:
  """Returns the environment of a process in which the CPU is `count` devices.

  A collective blocks one of XLA's threads on each device. With hardly more threads than devices,
  collectives under way at the same time can wait for each other for ever; and on a busy machine a
  thread may come late.
  """
  flags = (
    os.environ["XLA_FLAGS"],
    f"--xla_force_host_platform_device_count={count}",
    "--xla_cpu_collective_call_terminate_timeout_seconds=400",
  )
  return {"XLA_FLAGS": " ".join(flags), "PJRT_NPROC": "64"}


def assert_bfloat16_products_hardly_turn(gradients, *arguments, cosine: float = 0.999) -> None:
  """Gradients with rounded products are float32, point where exact ones do, and are not those.

  Args:
    gradients: a function that `jax.jit` compiles.
    cosine: of the angle between them is more than this. One ReLU or maximum in a thousand that
      takes its other branch turns a gradient by a thirtieth.
  """
  import jax

  from audiolm_jax.core import products

  exact = jax.tree.leaves(jax.device_get(gradients(*arguments)))
  with products.precision("bfloat16"):
    rounded = jax.tree.leaves(jax.device_get(gradients(*arguments)))
  for one, other in zip(exact, rounded, strict=True):
    assert one.dtype == other.dtype == np.float32
  a, b = (np.concatenate([leaf.ravel() for leaf in leaves]) for leaves in (exact, rounded))
  assert np.any(a != b)
  assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > cosine


def float32_products(function, *arguments) -> list[str]:
  """The products and convolutions that keep float32 operands where bfloat16 is asked for.

  Those with batch axes, as of queries and keys, are left out. One line of StableHLO each.
  """
  import jax

  from audiolm_jax.core import products

  with products.precision("bfloat16"):
    text = jax.jit(function).lower(*arguments).as_text()
  lines = [line for line in text.splitlines() if re.search(r"stablehlo\.(dot_general|conv)", line)]
  assert any("xbf16>" in line for line in lines)
  return [line for line in lines if "xf32>, tensor" in line and "batching_dims" not in line]


# gin bindings that make `codec_tiny` as small as the codec of `miniature_bundle`.
MINIATURE_CODEC = (
  "CODEBOOK_SIZE=16",
  "soundstream.SoundStreamConfig.encoder_channels=2",
  "soundstream.SoundStreamConfig.decoder_channels=2",
  "soundstream.SoundStreamConfig.latent_dim=8",
  "codec_training.CodecTrainingConfig.kmeans_vectors=64",
)
# The same for a semantic encoder.
MINIATURE_ENCODER = (
  "w2v_bert.W2vBertConfig.codebook_size=16",
  "w2v_bert.W2vBertConfig.code_dim=8",
  "conformer.ConformerConfig.stacks=(1,1)",
  "conformer.ConformerConfig.dim=16",
  "conformer.ConformerConfig.num_heads=2",
  "conformer.ConformerConfig.mlp_dim=32",
  "conformer.ConformerConfig.subsample_channels=4",
)


def miniature_conformer():
  """Two layers of width 16 over 8 mel bands."""
  from audiolm_jax.semantic.conformer import ConformerConfig
  from audiolm_jax.semantic.features import LogMelConfig

  return ConformerConfig(
    features=LogMelConfig(num_mels=8),
    stacks=(1, 1),
    dim=16,
    num_heads=2,
    mlp_dim=32,
    kernel_size=3,
    subsample_channels=4,
    left_context=4,
    right_context=4,
  )


@pytest.fixture(scope="session")
def miniature_bundle():
  """A whole system of random weights: 4 codec levels of 16, 16 clusters, 2 coarse + 2 fine levels.

  Codebooks and centroids are fitted to a melody, so that tokens follow the sound.
  """
  import jax
  import jax.numpy as jnp
  from flax.core import meta

  from audiolm_jax.bundles import Bundle
  from audiolm_jax.codec import soundstream
  from audiolm_jax.codec.quantizer import kmeans_start
  from audiolm_jax.codec.residual_codec import ResidualCodec
  from audiolm_jax.lm import stages
  from audiolm_jax.lm.config import TransformerConfig
  from audiolm_jax.lm.stage import Stage
  from audiolm_jax.lm.transformer import Transformer
  from audiolm_jax.semantic.conformer import ConformerEncoder
  from audiolm_jax.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig

  keys = iter(jax.random.split(jax.random.key(0), 8))
  waveform = jnp.asarray(melody(4.0)[None])

  c = soundstream.SoundStreamConfig(
    encoder_channels=2, decoder_channels=2, latent_dim=8, num_quantizers=4, codebook_size=16
  )
  params = jax.jit(c.init_params)(jnp.stack([next(keys), next(keys)]), waveform)
  params = meta.unbox(params)
  latents = c.encode_latents(params["encoder"], waveform)
  books = kmeans_start(latents.reshape(-1, c.latent_dim), 4, 16, next(keys)).codebooks
  codec = ResidualCodec(c, params | {"codebooks": books})

  conformer = miniature_conformer()
  s = SemanticTokenizerConfig(encoder=conformer, layer=1, num_clusters=16, chunk_steps=32)
  frames, valid = np.zeros((1, 16, 8), np.float32), np.ones((1, 4), bool)
  encoder = meta.unbox(
    jax.jit(ConformerEncoder(conformer.truncated(1)).init)(next(keys), frames, valid)
  )
  params = {"encoder": encoder["params"], "centroids": np.zeros((16, 16), np.float32)}
  params |= {"mean": np.zeros(16, np.float32), "scale": np.ones(16, np.float32)}
  features = SemanticTokenizer(s, params).features(waveform)[0]
  params |= {"mean": features.mean(axis=0), "scale": features.std(axis=0) + 1e-3}
  whitened = (features - params["mean"]) / params["scale"]
  semantic = SemanticTokenizer(s, params | {"centroids": whitened[::6][:16]})

  t = TransformerConfig(num_layers=1, dim=16, num_heads=2, mlp_dim=32, dropout_rate=0.0)
  numbers: dict[str, Any] = {"num_clusters": 16, "codebook_size": 16}
  specs = [
    stages.semantic_stage(crop_seconds=4.0, **numbers),
    stages.coarse_stage(crop_seconds=2.0, num_target_quantizers=2, **numbers),
    stages.fine_stage(
      crop_seconds=1.0, num_source_quantizers=2, num_target_quantizers=2, **numbers
    ),
  ]
  tokens = np.zeros((1, 8), np.int32)
  trained = {
    spec.name: Stage(
      spec,
      t,
      meta.unbox(
        jax.jit(Transformer(t, spec.layout.vocab_size, True).init)(next(keys), tokens, tokens)
      )["params"],
    )
    for spec in specs
  }
  return Bundle("miniature", codec, semantic, trained, semantic_rate=8.0, model_card="# Mini\n")


class DetectorRun(NamedTuple):
  """Forty steps of a detector to which melodies are real and noise is synthetic."""

  trainable: Any
  batch: dict[str, np.ndarray]
  state: Any
  first: dict[str, Any]
  last: dict[str, Any]


@pytest.fixture(scope="session")
def detector_run():
  import jax
  from flax.core import meta

  from audiolm_jax.detection.classifier import ClassifierConfig
  from audiolm_jax.semantic.features import LogMelConfig
  from audiolm_jax.trainables.detector import DetectorTrainable, DetectorTrainingConfig
  from audiolm_jax.training.optimizers import OptimizerConfig

  config = ClassifierConfig(features=LogMelConfig(num_mels=16), channels=(4, 8, 8), groups=2)
  optimizer = OptimizerConfig(name="adam", learning_rate=1e-2)
  trainable = DetectorTrainable(DetectorTrainingConfig(config, optimizer, ema_decay=0.9))
  sounds = [make(0.5, seed=i) for make in (melody, noise) for i in range(4)]
  batch = {
    "waveform": np.stack(sounds),
    "length": np.full(8, 8_000, np.int32),
    "label": np.repeat(np.arange(2, dtype=np.int32), 4),
  }
  state = meta.unbox(jax.jit(trainable.init)(jax.random.key(0), batch))
  step = jax.jit(trainable.train_step)
  logged = []
  for _ in range(40):
    state, metrics = step(state, batch, jax.random.key(1))
    logged.append(jax.device_get(metrics))
  return DetectorRun(trainable, batch, state, logged[0], logged[-1])


@pytest.fixture(scope="session")
def detector(detector_run):
  """What `detector_run` has learned."""
  import jax

  from audiolm_jax.detection.detector import Detector

  params = detector_run.trainable.inference_params(detector_run.state)
  return Detector(detector_run.trainable.config.classifier, jax.device_get(params))


class Finished(NamedTuple):
  """What a command line did."""

  code: int
  out: str
  err: str


@pytest.fixture
def run_cli(capsys):
  """Runs one of the package's command lines in this process: `run_cli("encode", "a.wav", ...)`."""
  import importlib

  from absl import flags

  from audiolm_jax.core.command_line import exit_code

  def run(name: str, *arguments: object) -> Finished:
    module = importlib.import_module(f"audiolm_jax.{name}")
    module.FLAGS.unparse_flags()
    for flag in module.FLAGS:
      module.FLAGS[flag].unparse()
    capsys.readouterr()
    try:
      rest = module.FLAGS([name, *map(str, arguments)])
    except flags.Error as error:
      return Finished(2, "", str(error))
    code = exit_code(module.main, rest)
    captured = capsys.readouterr()
    return Finished(code, captured.out, captured.err)

  return run
