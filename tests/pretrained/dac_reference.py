"""DAC as `transformers` computes it, with random weights; writes what the tests compare with.

pip install -r requirements/pretrained.txt
python -m tests.pretrained.dac_reference
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]: of a separate environment
from safetensors.torch import save_file
from transformers import DacConfig, DacModel  # pyright: ignore[reportMissingImports]: of a separate environment

from audiolm_jax.pretrained.reference import reference_of

GOLDEN = Path(__file__).parents[1] / "golden" / "pretrained" / "dac"
SHAPE = {
  "encoder_hidden_size": 3,
  "downsampling_ratios": [2, 4, 5],
  "decoder_hidden_size": 16,
  "n_codebooks": 4,
  "codebook_size": 16,
  "codebook_dim": 4,
}
LENGTHS = (1200, 1733)  # samples: whole frames of 40, and not


def random_dac(seed: int, **shape: Any) -> DacModel:
  """A model whose every parameter is random, so that none can be left out unseen."""
  model = DacModel(DacConfig(sampling_rate=16_000, **shape)).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in model.named_parameters():
      if name.endswith("alpha"):
        value.uniform_(0.5, 2.0, generator=generator)
      elif "codebook" in name:
        value.normal_(0, 1, generator=generator)
      elif value.ndim == 1:
        value.normal_(0, 0.05, generator=generator)
      else:
        fan_in = value[0].numel() if "conv_t" not in name else 2 * len(value)
        value.normal_(0, 0.6 * fan_in**-0.5, generator=generator)
    _spread_codes(model, generator)
  return model


def _spread_codes(model: DacModel, generator: torch.Generator) -> None:
  """Centres what is quantized and takes the entries from it, so that most of them are used."""
  size, hop = model.config.codebook_size, model.config.hop_length
  clip = torch.from_numpy(sound(hop * (size + 50), 7))[None, None]
  residual = model.encoder(clip)
  for level in model.quantizer.quantizers:
    level.in_proj.bias -= level.in_proj(residual).mean(dim=(0, 2))
    vectors = level.in_proj(residual)[0].T
    chosen = vectors[torch.randperm(len(vectors), generator=generator)[:size]]
    noise = torch.randn(chosen.shape, generator=generator)
    level.codebook.weight.copy_(chosen + 0.1 * vectors.std() * noise)
    residual = residual - level(residual)[0]


def padded_input(clip: np.ndarray, hop: int) -> torch.Tensor:
  """One clip as the reference's own feature extractor gives it: zeros up to a whole frame."""
  return torch.from_numpy(np.pad(clip, (0, -len(clip) % hop)))[None, None]


def encode(model: DacModel, clip: np.ndarray) -> np.ndarray:
  """Codes [frames, quantizers]."""
  return reference_of(model).encode(clip)  # pyright: ignore[reportAttributeAccessIssue]: a codec has it


def decode(model: DacModel, codes: np.ndarray) -> np.ndarray:
  """Waveform [samples]."""
  return reference_of(model).decode(codes)  # pyright: ignore[reportAttributeAccessIssue]: a codec has it


@torch.no_grad()
def latents(model: DacModel, clip: np.ndarray) -> np.ndarray:
  """The encoder's output [frames, latent]."""
  return model.encoder(padded_input(clip, model.config.hop_length))[0].T.numpy()


def sound(samples: int, seed: int) -> np.ndarray:
  """A tone that wavers, swells and hisses, float32 [samples]."""
  rng = np.random.default_rng(seed)
  time = np.arange(samples) / 16_000
  tone = np.sin(2 * np.pi * (200 + 60 * seed) * time + 40 * np.sin(2 * np.pi * 3 * time))
  swell = np.square(np.sin(2 * np.pi * 1.7 * time + seed))
  return (0.5 * swell * tone + 0.2 * rng.standard_normal(samples)).astype(np.float32)


def write_golden() -> None:
  """A miniature model, weight-normalized as it was trained, its input and what it makes of it."""
  model = random_dac(0, **SHAPE)
  found: dict[str, np.ndarray] = {}
  for i, samples in enumerate(LENGTHS):
    clip = sound(samples, i)
    codes = encode(model, clip)
    found |= {
      f"waveform_{i}": clip,
      f"latents_{i}": latents(model, clip),
      f"codes_{i}": codes,
      f"sound_{i}": decode(model, codes),
      f"sound_of_2_levels_{i}": decode(model, codes[:, :2]),
    }
  model.apply_weight_norm()
  GOLDEN.mkdir(parents=True, exist_ok=True)
  # save_file and not save_pretrained: names as they are, weight normalization included.
  save_file(
    {k: v.contiguous() for k, v in model.state_dict().items()}, GOLDEN / "model.safetensors"
  )
  config = {"model_type": "dac", "sampling_rate": 16_000, **SHAPE}
  (GOLDEN / "config.json").write_text(json.dumps(config, indent=2) + "\n")
  np.savez_compressed(GOLDEN / "expected.npz", **found)  # pyright: ignore[reportArgumentType]: names of arrays


if __name__ == "__main__":
  write_golden()
  print({path.name: path.stat().st_size for path in GOLDEN.iterdir()})
