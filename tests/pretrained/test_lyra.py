"""Lyra v2: its layers against those of XLA, its files, and published ones if installed."""

import importlib
import importlib.util
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from audiolm_jax.codec.quantizer import residual_quantize
from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.core import shapes
from audiolm_jax.core.errors import ConfigError, DataError, UserError
from audiolm_jax.pretrained import lyra, registry
from audiolm_jax.pretrained.lyra_layers import (
  NO_LIMITS,
  DepthwiseConv,
  GroupedConv,
  GroupedTransposedConv,
  LyraConfig,
)
from audiolm_jax.pretrained.verify import sound_of_the_check
from audiolm_jax.pretrained.weights import PublishedWeights
from tests.pretrained.conftest import miniature_lyra

# Of github.com/google/lyra, lyra/model_coeffs.
MODELS = Path(os.environ.get("LYRA_DIR", Path(__file__).parents[3] / "shared/data/lyra"))
HAS_READER = importlib.util.find_spec("tflite") is not None
needs_reader = pytest.mark.skipif(not HAS_READER, reason="needs requirements/extras/lyra.txt")
needs_lyra = pytest.mark.skipif(
  not (HAS_READER and importlib.util.find_spec("ai_edge_litert") and MODELS.is_dir()),
  reason="tflite, ai-edge-litert or the folder LYRA_DIR with Lyra's models is not there",
)


@pytest.fixture(scope="module")
def codec():
  """The miniature, with dense weights that int8 represents, and limits that a file can have."""
  codec, limits = miniature_lyra(), importlib.import_module("tests.pretrained.lyra_files").LIMITS
  special = {
    "encoder/input/limits": NO_LIMITS,
    "decoder/input/limits": (limits[0] / 0.3, limits[1]),
  }

  def representable(path, value):
    name, value = "/".join(key.key for key in path), np.asarray(value)
    if name.endswith("limits"):
      return np.array(special.get(name, limits), np.float32)
    if "dense" not in name:
      return value
    if name.endswith("bias"):
      return np.zeros_like(value)
    scale = np.abs(value).max(axis=(0, 1)) / 127
    return np.float32(np.round(value / scale) * scale)

  params = jax.tree_util.tree_map_with_path(representable, dict(codec.params))
  return ResidualCodec(codec.config, params)


@pytest.fixture
def folder(codec, tmp_path):
  """The three files of the miniature."""
  importlib.import_module("tests.pretrained.lyra_files").write_lyra(tmp_path, codec)
  return tmp_path


LIMITS = np.array([-2.0, 1.5], np.float32)


def noise(*shape):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def run(layer, params, x, state):
  """One program instead of one for each operation."""
  return jax.jit(lambda *given: layer.apply({"params": given[0]}, *given[1:]))(params, x, state)


@pytest.mark.parametrize(("taps", "stride", "groups"), [(6, 3, 2), (2, 1, 1)])
def test_a_group_of_outputs_reads_the_taps_of_its_group_of_inputs(taps, stride, groups):
  x, state = noise(2, 4 * stride, 4), noise(2, taps - stride, 4)
  kernel, bias = noise(taps, 4 // groups, 6), noise(6)
  layer = GroupedConv(6, taps, stride, groups)
  found, after = run(layer, {"kernel": kernel, "bias": bias, "limits": LIMITS}, x, state)
  padded = np.concatenate([state, x], axis=1)
  expected = np.tile(bias, (2, 4, 1))
  for frame, tap, output in np.ndindex(4, taps, 6):
    first = output // (6 // groups) * (4 // groups)
    inputs = padded[:, frame * stride + tap, first : first + 4 // groups]
    expected[:, frame, output] += inputs @ kernel[tap, :, output]
  np.testing.assert_allclose(found, expected.clip(*LIMITS), atol=1e-5)
  assert expected.max() > LIMITS[1]
  np.testing.assert_array_equal(after, padded[:, 4 * stride :])


@pytest.mark.parametrize(("overlap", "groups"), [(2, 2), (4, 1)])
def test_a_transposed_convolution_adds_every_input_to_its_block_and_the_next(overlap, groups):
  x, state = noise(2, 5, 4), noise(2, overlap - 1, 3, 6)
  kernel, bias = noise(4 // groups, 3 * overlap, 6), noise(6)
  layer = GroupedTransposedConv(6, 3, overlap, groups)
  found, after = run(layer, {"kernel": kernel, "bias": bias}, x, state)
  expected = np.zeros((2, 3 * (4 + overlap), 6), np.float32)
  expected[:, : 3 * (overlap - 1)] = state.reshape(2, -1, 6)
  for frame, tap, output in np.ndindex(5, 3 * overlap, 6):
    first = output // (6 // groups) * (4 // groups)
    inputs = x[:, frame, first : first + 4 // groups]
    expected[:, 3 * frame + tap, output] += inputs @ kernel[:, tap, output]
  np.testing.assert_allclose(found, expected[:, :15] + bias, atol=1e-5)
  np.testing.assert_allclose(after.reshape(2, -1, 6), expected[:, 15:], atol=1e-5)


def test_a_depthwise_convolution_reads_each_channel_at_its_dilation():
  x, state, kernel = noise(2, 7, 4), noise(2, 6, 4), noise(3, 4)
  found, after = run(DepthwiseConv(3), {"kernel": kernel, "limits": LIMITS}, x, state)
  padded = np.concatenate([state, x], axis=1)
  expected = np.sum([kernel[k] * padded[:, 3 * k : 3 * k + 7] for k in range(3)], axis=0)
  np.testing.assert_allclose(found, expected.clip(*LIMITS), atol=1e-5)
  np.testing.assert_array_equal(after, padded[:, 7:])


def test_the_defaults_are_lyra_v2():
  config, count = LyraConfig(), shapes.flat(LyraConfig().parameter_shapes())
  assert (config.spec.frame_rate, config.spec.bits_per_second) == (50.0, 9200.0)
  # Those of the files without the biases of depthwise layers, which are zeros.
  halves = [
    sum(np.prod(v) for k, v in count.items() if k.startswith(h) and "limits" not in k)
    for h in ("enc", "dec")
  ]
  assert halves == [660_352 - 3 * 448, 660_289 - 3 * 448]


@needs_reader
def test_files_have_the_weights_that_were_written(codec, folder):
  published = lyra.read_files(folder)
  found = lyra.convert(published.config, published.weights)
  assert found.config == codec.config
  written, read = (shapes.flat(jax.tree.map(np.asarray, c.params)) for c in (codec, found))
  assert written.keys() == read.keys()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), codec.params, found.params)


@needs_reader
def test_other_files_are_refused_and_named(codec, folder, tmp_path):
  published = lyra.read_files(folder)
  with pytest.raises(DataError, match=r"download them again"):
    registry.convert(registry.find_model("lyra_v2"), published)
  tensors = published.weights.tensors
  biased = {k: v + 1 if k == "lyragan.3.bias" else v for k, v in tensors.items()}
  with pytest.raises(DataError, match=r"lyragan\.3\.bias is not zero"):
    lyra.convert(published.config, PublishedWeights(biased))
  with pytest.raises(ConfigError, match=r"slopes \[0\.2\], and only \[0\.3\]"):
    lyra.read_config(published.config | {"slopes": [0.2]})
  (folder / "quantizer.tflite").write_bytes((folder / "quantizer.tflite").read_bytes()[:-900])
  with pytest.raises(DataError, match=r"quantizer\.tflite is not a TFLite file or is damaged"):
    lyra.read_files(folder)
  (folder / "quantizer.tflite").unlink()
  with pytest.raises(UserError, match=r"quantizer\.tflite: No such file.*google/lyra"):
    lyra.read_files(folder)


def test_without_its_reader_the_extra_is_named(monkeypatch, tmp_path):
  for name in lyra.FILES:
    (tmp_path / name).write_bytes(b"")
  monkeypatch.setitem(__import__("sys").modules, "tflite", None)
  with pytest.raises(UserError, match=r"pip install -r requirements/extras/lyra\.txt"):
    lyra.read_files(tmp_path)


@needs_lyra
def test_the_published_files_give_their_codes_and_nearly_their_latents_and_sound():
  model = registry.find_model("lyra_v2")
  codec = registry.convert(model, model.read(str(MODELS)))
  assert codec.config == LyraConfig()
  sound = sound_of_the_check(16_000)[: 40 * 320]
  latents, codes, entries, waveform = through_the_files(sound)
  np.testing.assert_array_equal(
    jax.jit(residual_quantize)(latents, codec.params["codebooks"]), codes
  )
  ours = codec.params["codebooks"][np.arange(46), codes].sum(axis=1)
  np.testing.assert_allclose(ours, entries, atol=1e-4)
  ours = jax.jit(codec.config.encode_latents)(codec.params["encoder"], sound[None])
  assert signal_to_noise(ours[0], latents) > 20
  ours = jax.jit(codec.config.decode_latents)(codec.params["decoder"], entries[None])
  assert signal_to_noise(ours[0], waveform) > 20


def signal_to_noise(ours, theirs):
  """In dB, of the difference to a reference."""
  return 10 * np.log10(np.sum(np.square(theirs)) / np.sum(np.square(ours - theirs)))


def through_the_files(sound):
  """What the interpreter makes of a sound: latents, codes, their entries and the waveform."""
  interpreter = importlib.import_module("ai_edge_litert.interpreter")

  def runner(name, signature=None):
    model = interpreter.Interpreter(str(MODELS / name), num_threads=1)
    return model, model.get_signature_runner(signature)

  (_m, encode), (_d, decode) = runner(lyra.FILES[0]), runner(lyra.FILES[2])
  (_q, quantize), (_l, look_up) = (runner(lyra.FILES[1], name) for name in ("encode", "decode"))
  found = []
  for frame in sound.reshape(-1, 1, 320):
    latent = encode(input_audio=frame)["output_0"]
    codes = quantize(input_frames=latent, num_quantizers=np.int32(46))["output_0"]
    entry = look_up(encoding_indices=codes)["output_0"]
    found.append((latent[0, 0], codes[:, 0, 0], entry[0, 0], decode(input_audio=entry)["output_0"]))
  latents, codes, entries, waveform = map(np.stack, zip(*found, strict=True))
  return latents, codes, entries, waveform.reshape(-1)
