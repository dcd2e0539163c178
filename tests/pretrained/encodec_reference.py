"""EnCodec as `transformers` computes it, with random weights; writes what the tests compare with.

pip install -r requirements/pretrained.txt
python -m tests.pretrained.encodec_reference
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]: of a separate environment
from safetensors.torch import save_file
from transformers import EncodecConfig, EncodecModel  # pyright: ignore[reportMissingImports]: of a separate environment

from audiolm_jax.pretrained.reference import reference_of
from tests.pretrained.dac_reference import sound

GOLDEN = Path(__file__).parents[1] / "golden" / "pretrained" / "encodec"
SHAPE = {
  "num_filters": 2,
  "upsampling_ratios": [5, 4, 2],
  "hidden_size": 8,
  "codebook_size": 16,
  "target_bandwidths": [2.4, 9.6],
}
# Samples: whole frames of 40, not, one more than the first frames, fewer, and less than one.
LENGTHS = (1200, 1733, 281, 130, 3)


def random_encodec(seed: int, **shape: Any) -> EncodecModel:
  """A model whose every parameter is random, so that none can be left out unseen."""
  model = EncodecModel(EncodecConfig(**shape)).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in model.named_parameters():
      if name.endswith("original0"):
        value.uniform_(0.7, 1.5, generator=generator)
      elif name.endswith("original1"):
        value.normal_(0, 1, generator=generator)
      elif ".lstm.weight" in name:
        value.normal_(0, value.shape[1] ** -0.5, generator=generator)
      else:
        value.normal_(0, 0.1, generator=generator)
    _spread_codes(model, generator)
  return model


def _spread_codes(model: EncodecModel, generator: torch.Generator) -> None:
  """Takes the entries from what is quantized, so that most of them are used."""
  size, hop = model.config.codebook_size, model.config.hop_length
  clip = torch.from_numpy(sound(hop * (size + 50), 7))[None, None]
  residual = model.encoder(clip)[0].T
  for level in model.quantizer.layers:
    chosen = residual[torch.randperm(len(residual), generator=generator)[:size]]
    noise = torch.randn(chosen.shape, generator=generator)
    level.codebook.embed.copy_(chosen + residual.std() * noise)
    residual = residual - level.codebook.decode(level.codebook.encode(residual))


def encode(model: EncodecModel, clip: np.ndarray) -> np.ndarray:
  """Codes [frames, quantizers] of one clip as it is, at all levels."""
  return reference_of(model).encode(clip)  # pyright: ignore[reportAttributeAccessIssue]: a codec has it


def decode(model: EncodecModel, codes: np.ndarray) -> np.ndarray:
  """Waveform [samples]."""
  return reference_of(model).decode(codes)  # pyright: ignore[reportAttributeAccessIssue]: a codec has it


@torch.no_grad()
def latents(model: EncodecModel, clip: np.ndarray) -> np.ndarray:
  """The encoder's output [frames, latent]."""
  return model.encoder(torch.from_numpy(clip)[None, None])[0].T.numpy()


def write_golden() -> None:
  """A miniature model, weight-normalized as it was trained, its input and what it makes of it."""
  model = random_encodec(0, **SHAPE)
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
  GOLDEN.mkdir(parents=True, exist_ok=True)
  # save_file and not save_pretrained: names as they are, weight normalization included.
  save_file(
    {k: v.contiguous() for k, v in model.state_dict().items()}, GOLDEN / "model.safetensors"
  )
  config = {"model_type": "encodec", "sampling_rate": 24_000, **SHAPE}
  (GOLDEN / "config.json").write_text(json.dumps(config, indent=2) + "\n")
  np.savez_compressed(GOLDEN / "expected.npz", **found)  # pyright: ignore[reportArgumentType]: names of arrays


if __name__ == "__main__":
  write_golden()
  print({path.name: path.stat().st_size for path in GOLDEN.iterdir()})
