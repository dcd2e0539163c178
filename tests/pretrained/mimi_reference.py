"""Mimi as `transformers` computes it, with random weights; writes what the tests compare with.

pip install -r requirements/pretrained.txt
python -m tests.pretrained.mimi_reference
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]: of a separate environment
from transformers import MimiConfig, MimiModel  # pyright: ignore[reportMissingImports]: of a separate environment

from audiolm_jax.pretrained.reference import reference_of
from tests.pretrained.dac_reference import sound

GOLDEN = Path(__file__).parents[1] / "golden" / "pretrained" / "mimi"
SHAPE = {
  "num_filters": 2,
  "upsampling_ratios": [5, 4],
  "hidden_size": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "num_key_value_heads": 2,
  "intermediate_size": 24,
  "sliding_window": 9,
  "upsample_groups": 16,
  "num_quantizers": 4,
  "codebook_size": 16,
  "codebook_dim": 4,
  "vector_quantization_hidden_dimension": 4,
}
# Samples: whole frames of 40; less than half a frame more; more than half; less than one frame;
# longer than a block of 50 frames.
LENGTHS = (1200, 1217, 1033, 3, 2290)


def random_mimi(seed: int, **shape: Any) -> MimiModel:
  """A model whose every parameter is random, so that none can be left out unseen."""
  model = MimiModel(MimiConfig(**shape)).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in model.named_parameters():
      if "layer_scale" in name:
        value.uniform_(0.2, 0.6, generator=generator)
      elif "layernorm.weight" in name:
        value.uniform_(0.7, 1.5, generator=generator)
      elif value.ndim == 1:
        value.normal_(0, 0.1, generator=generator)
      elif "proj" in name or "fc" in name:
        value.normal_(0, 1.5 * value.shape[1] ** -0.5, generator=generator)
      elif "upsample" in name:
        value.normal_(0, 0.7, generator=generator)
      else:
        fan_in = value[0].numel() if "decoder" not in name else 2 * value.shape[1]
        value.normal_(0, fan_in**-0.5, generator=generator)
        if "decoder" in name and "block" not in name and len(value) == 1:
          value *= 0.05  # the last layer: a waveform within [-1, 1]
    _spread_codes(model, generator)
  return model


def _spread_codes(model: MimiModel, generator: torch.Generator) -> None:
  """Takes the entries from what is quantized, so that most of them are used."""
  size, hop = model.config.codebook_size, model.config.frame_size
  clip = torch.from_numpy(sound(hop * min(size + 50, 400), 7))[None, None]
  found = model.encoder(clip).latents
  quantizer = model.quantizer
  for half in (quantizer.semantic_residual_vector_quantizer,
               quantizer.acoustic_residual_vector_quantizer):  # fmt: skip
    residual = half.input_proj(found)[0].T
    for level in half.layers:
      chosen = residual[torch.randint(len(residual), (size,), generator=generator)]
      noise = torch.randn(chosen.shape, generator=generator)
      usage = torch.empty(size).uniform_(0.5, 40.0, generator=generator)
      level.codebook.cluster_usage.copy_(usage)
      entries = chosen + residual.std(dim=0).mean() * noise
      level.codebook.embed_sum.copy_(entries * usage[:, None])
      residual = residual - level.codebook.decode(level.codebook.encode(residual))


def encode(model: MimiModel, clip: np.ndarray) -> np.ndarray:
  """Codes [frames, quantizers] of one clip as it is, at all levels."""
  return reference_of(model).encode(clip)  # pyright: ignore[reportAttributeAccessIssue]: a codec has it


def decode(model: MimiModel, codes: np.ndarray) -> np.ndarray:
  """Waveform [samples]."""
  return reference_of(model).decode(codes)  # pyright: ignore[reportAttributeAccessIssue]: a codec has it


@torch.no_grad()
def halves(model: MimiModel, clip: np.ndarray) -> np.ndarray:
  """What each half quantizes [frames, 2, dim]."""
  found = model.encoder(torch.from_numpy(clip)[None, None]).latents
  quantizer = model.quantizer
  parts = [
    half.input_proj(found)[0].T
    for half in (
      quantizer.semantic_residual_vector_quantizer,
      quantizer.acoustic_residual_vector_quantizer,
    )
  ]
  return torch.stack(parts, dim=1).numpy()


def write_golden() -> None:
  """A miniature model, its input and what it makes of it."""
  model = random_mimi(0, **SHAPE)
  found: dict[str, np.ndarray] = {}
  for i, samples in enumerate(LENGTHS):
    clip = sound(samples, i)
    codes = encode(model, clip)
    found |= {
      f"waveform_{i}": clip,
      f"halves_{i}": halves(model, clip),
      f"codes_{i}": codes,
      f"sound_{i}": decode(model, codes),
    }
  for levels in (1, 2):  # the semantic level alone; one of each half
    found[f"sound_of_levels_{levels}"] = decode(model, found["codes_0"][:, :levels])
  GOLDEN.mkdir(parents=True, exist_ok=True)
  model.save_pretrained(GOLDEN)
  kept = json.loads((GOLDEN / "config.json").read_text())
  # As the published file has it, which is older than the reference.
  for name in ("architectures", "dtype", "transformers_version", "_frame_rate"):
    kept.pop(name, None)
  kept |= {"rope_theta": kept.pop("rope_parameters")["rope_theta"]}
  kept |= {"frame_rate": kept["sampling_rate"] / model.config.frame_size}
  (GOLDEN / "config.json").write_text(json.dumps(kept, indent=2) + "\n")
  np.savez_compressed(GOLDEN / "expected.npz", **found)  # pyright: ignore[reportArgumentType]: names of arrays


if __name__ == "__main__":
  write_golden()
  print({path.name: path.stat().st_size for path in GOLDEN.iterdir()})
