"""HuBERT as `transformers` computes it, with random weights; writes what the tests compare with.

pip install -r requirements/pretrained.txt
python -m tests.pretrained.hubert_reference
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]: of a separate environment
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel  # pyright: ignore[reportMissingImports]: of a separate environment

from audiolm_jax.pretrained.reference import reference_of
from tests.pretrained.dac_reference import sound

GOLDEN = Path(__file__).parents[1] / "golden" / "pretrained"
SMALL = {
  "conv_dim": [8] * 7,
  "hidden_size": 16,
  "num_hidden_layers": 3,
  "num_attention_heads": 2,
  "intermediate_size": 24,
  "num_conv_pos_embeddings": 8,
  "num_conv_pos_embedding_groups": 4,
}
# How the base model and the large one differ, but for size.
BASE = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
# The multilingual base model at 25 Hz has one convolution more.
BASE_25HZ = BASE | {
  "conv_dim": [8] * 8,
  "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
  "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
}
LENGTHS = (4000, 5771)  # samples: whole steps of 320 less one, and not


def random_hubert(seed: int, **shape: Any) -> HubertModel:
  """A model whose every parameter is random, so that none can be left out unseen."""
  model = HubertModel(HubertConfig(**shape)).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in model.named_parameters():
      if name.endswith("norm.weight") or name.endswith("original0"):
        value.uniform_(0.5, 1.5, generator=generator)
      elif value.ndim == 1:
        value.normal_(0, 0.1, generator=generator)
      else:
        value.normal_(0, 1.5 * value[0].numel() ** -0.5, generator=generator)
  return model


def features(model: HubertModel, clip: np.ndarray) -> list[np.ndarray]:
  """What each layer makes of one clip, [frames, dim]; index 0 is what goes into the first."""
  return reference_of(model).features(clip)  # pyright: ignore[reportAttributeAccessIssue]: an encoder has it


def write_golden() -> None:
  """Two miniatures, their positions weight-normalized, a sound and what they make of it."""
  clips = [sound(samples, i) for i, samples in enumerate(LENGTHS)]
  for folder, kind in (("hubert", BASE), ("hubert_stable", LARGE)):
    model = random_hubert(0, **SMALL, **kind)
    found: dict[str, np.ndarray] = {}
    for i, clip in enumerate(clips):
      found[f"waveform_{i}"] = clip.astype(np.float16)
      clip_in_float16 = found[f"waveform_{i}"].astype(np.float32)
      found |= {f"layer_{n}_{i}": x for n, x in enumerate(features(model, clip_in_float16))}
    (GOLDEN / folder).mkdir(parents=True, exist_ok=True)
    tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, GOLDEN / folder / "model.safetensors")
    config = model.config.to_dict()
    kept = {k: config[k] for k in ("model_type", *SMALL, *kind, *_FIXED)}
    (GOLDEN / folder / "config.json").write_text(json.dumps(kept, indent=2) + "\n")
    np.savez_compressed(GOLDEN / folder / "expected.npz", **found)  # pyright: ignore[reportArgumentType]: names of arrays


_FIXED = (
  "conv_kernel", "conv_stride", "feat_extract_activation", "feat_proj_layer_norm", "hidden_act",
  "layer_norm_eps",
)  # fmt: skip


if __name__ == "__main__":
  write_golden()
  print({p.name: p.stat().st_size for p in sorted(GOLDEN.glob("hubert*/*"))})
