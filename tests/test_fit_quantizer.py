"""From a bundle and recordings to the same codec with other codebooks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from audiolm_jax.bundles import Bundle, load_bundle, save_bundle
from audiolm_jax.chunking import run
from audiolm_jax.codec.quantizer import dequantize
from tests.conftest import melody
from tests.pretrained.conftest import miniature_dac, miniature_lyra


@pytest.fixture
def bundle_of(tmp_path):
  """Writes a bundle of a codec and some recordings."""
  (tmp_path / "data" / "train").mkdir(parents=True)
  for seed in range(2):
    clip = melody(0.7, seed)
    soundfile.write(tmp_path / "data" / "train" / f"{seed}.wav", clip, 16_000, subtype="FLOAT")

  def write(codec):
    semantic = load_bundle("speech", stages=()).semantic
    save_bundle(Bundle("given", codec, semantic, metadata={"pretrained": 1}), tmp_path / "given")
    return tmp_path

  return write


def arguments(folder):
  paths = {"bundle": "given", "data": "data", "output": "fitted"}
  return [f"--{name}={folder / path}" for name, path in paths.items()]


def test_only_codebooks_change_and_each_level_reduces_the_distortion(bundle_of, run_cli):
  given, folder = miniature_lyra(), bundle_of(miniature_lyra())
  sizes = ("--num_quantizers=3", "--codebook_size=8")
  done = run_cli("fit_quantizer", *arguments(folder), *sizes)
  assert done.code == 0, done.err
  assert "3 levels of 8 entries, fitted to 560 frames" in done.out and "3.6 kbit/s" in done.out
  bundle = load_bundle(folder / "fitted")
  assert bundle.metadata["pretrained"] == 1 and bundle.metadata["codebooks"]["frames"] == 560
  codec: Any = bundle.codec
  assert (codec.spec.num_quantizers, codec.spec.codebook_size) == (3, 8)
  for half in ("encoder", "decoder"):
    jax.tree.map(np.testing.assert_array_equal, codec.params[half], given.params[half])

  clips = [melody(0.7, seed) for seed in range(2)]
  latents = np.concatenate(run(codec.latent_encoder, clips, 2))
  codes = np.concatenate(codec.encode(np.stack(clips)))
  distortions = [
    np.mean(
      np.sum(
        np.square(latents - dequantize(jnp.asarray(codes[:, :levels]), codec.codebooks)), axis=-1
      )
    )
    for levels in (1, 2, 3)
  ]
  printed = [float(line.split()[-1]) for line in done.out.splitlines() if "distortion" in line]
  np.testing.assert_allclose(printed, distortions, rtol=1e-3)
  assert distortions == sorted(distortions, reverse=True)
  assert distortions[0] < 0.7 * np.sum(latents.var(axis=0))


def test_a_codec_with_another_kind_of_quantizer_is_refused(bundle_of, run_cli):
  done = run_cli("fit_quantizer", *arguments(bundle_of(miniature_dac())))
  assert done.code == 2 and "a DacCodec does not quantize its latents" in done.err


def test_missing_arguments_are_named(run_cli):
  done = run_cli("fit_quantizer", "--bundle=speech")
  assert done.code == 2 and "--data is required" in done.err
