"""w2v-BERT 2.0 as `transformers` computes it, with random weights; writes what tests compare with.

pip install -r requirements/pretrained.txt
python -m tests.pretrained.w2v_bert_2_reference
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]: of a separate environment
from safetensors.torch import save_file
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel  # pyright: ignore[reportMissingImports]: of a separate environment

from tests.pretrained.dac_reference import sound

FOLDER = Path(__file__).parents[1] / "golden" / "pretrained" / "w2v_bert_2"
# Clips are longer than the relative positions reach, to either side.
SMALL = {
  "hidden_size": 16,
  "num_hidden_layers": 3,
  "num_attention_heads": 2,
  "intermediate_size": 24,
  "conv_depthwise_kernel_size": 5,
  "left_max_position_embeddings": 6,
  "right_max_position_embeddings": 3,
}
LENGTHS = (4000, 5971)  # samples: 23 frames, the last of which has no partner, and 35


def random_w2v_bert_2(seed: int, **shape: Any) -> Wav2Vec2BertModel:
  """A model whose every parameter is random, so that none can be left out unseen."""
  model = Wav2Vec2BertModel(Wav2Vec2BertConfig(**shape)).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in model.named_parameters():
      if name.endswith("norm.weight"):
        value.uniform_(0.5, 1.5, generator=generator)
      elif value.ndim == 1:
        value.normal_(0, 0.1, generator=generator)
      elif "distance_embedding" in name:
        value.normal_(0, 1, generator=generator)
      else:
        value.normal_(0, 1.5 * value[0].numel() ** -0.5, generator=generator)
  return model


def extracted(clips: list[np.ndarray]) -> Any:
  """Returns the inputs for clips at 16 kHz: `input_features` [batch, steps, bands] and a mask.

  The feature extractor's own normalization, of each mel band over its clip.
  """
  return SeamlessM4TFeatureExtractor()(clips, sampling_rate=16_000, return_tensors="pt")


@torch.no_grad()
def features(model: Wav2Vec2BertModel, clips: list[np.ndarray]) -> list[np.ndarray]:
  """What each layer makes of clips side by side [batch, steps, dim]; 0: what goes into the first.

  Steps that are half padding are left out by the mask, and mean nothing.
  """
  found = model(**extracted(clips), output_hidden_states=True)
  return [layer.numpy() for layer in found.hidden_states]


def write_golden() -> None:
  """A miniature, sounds and what it makes of them."""
  model = random_w2v_bert_2(0, **SMALL)
  found: dict[str, np.ndarray] = {}
  for i, samples in enumerate(LENGTHS):
    found[f"waveform_{i}"] = sound(samples, i).astype(np.float16)
    clip = found[f"waveform_{i}"].astype(np.float32)
    inputs = extracted([clip])
    steps = int(inputs.attention_mask.sum())
    found[f"log_mel_{i}"] = inputs.input_features[0, :steps].numpy()
    layers = features(model, [clip])
    found |= {f"layer_{n}_{i}": x[0, :steps] for n, x in enumerate(layers)}
  FOLDER.mkdir(parents=True, exist_ok=True)
  tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
  save_file(tensors, FOLDER / "model.safetensors")
  config = model.config.to_dict()
  kept = {k: config[k] for k in ("model_type", *SMALL, *_FIXED)}
  (FOLDER / "config.json").write_text(json.dumps(kept, indent=2) + "\n")
  np.savez_compressed(FOLDER / "expected.npz", **found)  # pyright: ignore[reportArgumentType]: names of arrays


_FIXED = (
  "feature_projection_input_dim", "hidden_act", "position_embeddings_type", "add_adapter",
  "use_intermediate_ffn_before_adapter", "layer_norm_eps",
)  # fmt: skip


if __name__ == "__main__":
  write_golden()
  print({p.name: p.stat().st_size for p in sorted(FOLDER.iterdir())})
