"""Compares stage and codec with PyTorch implementations, in turns in one process.

Needs additional packages, which benchmarks/README.md lists.
"""

import dataclasses
import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.core.errors import UserError
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.sampling.decoder import StageSampler
from audiolm_jax.trainables.codec import CodecTrainable, CodecTrainingConfig
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from benchmarks import decoding
from benchmarks.models import TrainingStep, random_codec, random_stage

_CAPACITY = 2304
_CODEC_SECONDS = 10


def measure() -> dict[str, Any]:
  """Returns ratios of the times of the peers to ours; each pair is timed in turns."""
  try:
    torch_peers: Any = importlib.import_module("benchmarks.torch_peers")
    torch_peers.audiolm_pytorch()
  except ImportError as error:
    raise UserError(f"{error}; benchmarks/README.md lists what the peers need") from error
  torch_peers.torch.set_num_threads(len(os.sched_getaffinity(0)))
  return {
    "torch": torch_peers.torch.__version__,
    "decoding": _decoding(torch_peers),
    "stage_training": _stage_training(torch_peers),
    "codec": _codec(torch_peers),
    "codec_training": _codec_training(torch_peers),
  }


def _decoding(torch_peers: Any) -> dict[str, Any]:
  config = TransformerConfig(dropout_rate=0.0)
  sampler = StageSampler(random_stage(stages.coarse_stage(), config))
  ours = decoding.by_position(sampler, rows=1)
  eager = {}
  for name in ("float32", "bfloat16"):
    shape = config.num_layers, config.dim, config.num_heads, config.mlp_dim
    peer = torch_peers.StaticCacheStage(*shape, _CAPACITY, getattr(torch_peers.torch, name))
    peer.seconds_per_token(2000, 4)
    eager[f"eager_{name}_ms"] = round(1e3 * peer.seconds_per_token(2000, 24), 1)
  positions = (100, 600, 1200, 2000)
  peer = torch_peers.coarse_transformer(config.dim, config.num_layers, config.num_heads)
  theirs = torch_peers.decode_curve(peer, 250, positions)
  again = decoding.by_position(sampler, rows=1)
  ours = [point | {"ms": (point["ms"] + b["ms"]) / 2} for point, b in zip(ours, again, strict=True)]
  late = ours[-1]["ms"]
  ratios = {name.replace("_ms", "_over_ours"): round(ms / late, 2) for name, ms in eager.items()}
  return {
    "ours_by_position": ours,
    "audiolm_pytorch_by_position": theirs,
    "audiolm_pytorch_over_ours_late": round(theirs[-1]["ms"] / late, 2),
    "audiolm_pytorch_over_ours_early": round(theirs[0]["ms"] / ours[0]["ms"], 2),
    **eager,
    **ratios,
  }


def _stage_training(torch_peers: Any) -> dict[str, Any]:
  """Compares training of 6 layers of width 512 on 8 rows of 100 semantic and 400 coarse tokens."""
  rows, semantic, coarse = 8, 100, 400
  shape = TransformerConfig(num_layers=6, dim=512, num_heads=8, mlp_dim=2048)
  config = StageTrainingConfig(stages.coarse_stage(), dataclasses.replace(shape, dropout_rate=0.0))
  length = semantic + 1 + coarse
  weights = np.concatenate([np.zeros(semantic + 1), np.ones(coarse)])
  batch = {
    "decoder_input_tokens": np.random.default_rng(0).integers(4, 1000, (rows, length), np.int32),
    "decoder_target_tokens": np.random.default_rng(1).integers(4, 1000, (rows, length), np.int32),
    "decoder_frame_ids": np.zeros((rows, length), np.int32),
    "decoder_loss_weights": np.tile(weights, (rows, 1)).astype(np.float32),
  }
  ours = TrainingStep(StageTrainable(config), batch)
  peer = torch_peers.StageTraining(
    torch_peers.coarse_transformer(512, 6, 8), rows, semantic, coarse
  )
  ours_seconds, theirs_seconds = _in_turns(ours.step, peer.step, rounds=3)
  tokens = rows * (semantic + coarse)
  return {
    "ours_tokens_per_second": round(tokens / ours_seconds),
    "theirs_tokens_per_second": round(tokens / theirs_seconds),
    "ratio": round(theirs_seconds / ours_seconds, 2),
  }


def _codec(torch_peers: Any) -> dict[str, Any]:
  """Compares the paper's codec on 10 s at batch 1."""
  config = SoundStreamConfig()
  codec = random_codec(config)
  peer = torch_peers.soundstream(
    config.encoder_channels, config.latent_dim, config.num_quantizers
  ).eval()
  waveform = np.random.default_rng(0).normal(0, 0.1, (1, _CODEC_SECONDS * config.sample_rate))
  waveform = waveform.astype(np.float32)
  codes = codec.encode(waveform)
  sound = torch_peers.torch.from_numpy(waveform)[:, None]
  with torch_peers.torch.inference_mode():
    latents = peer.encoder(sound)
    ours_encode, theirs_encode = _in_turns(
      lambda: codec.encode(waveform), lambda: peer.encoder(sound)
    )
    ours_decode, theirs_decode = _in_turns(
      lambda: codec.decode(codes), lambda: peer.decoder(latents)
    )
  return {
    # Ours includes the quantizer, theirs does not.
    "encode_ratio": round(theirs_encode / ours_encode, 2),
    "decode_ratio": round(theirs_decode / ours_decode, 2),
    "ours_encode_real_time": round(_CODEC_SECONDS / ours_encode, 1),
    "ours_decode_real_time": round(_CODEC_SECONDS / ours_decode, 1),
  }


def _codec_training(torch_peers: Any) -> dict[str, Any]:
  """Compares training of 16 channels and 12 levels on 4 clips of 0.5 s, with all discriminators."""
  rows, samples = 4, 8000
  model = SoundStreamConfig(encoder_channels=16, decoder_channels=16, latent_dim=256)
  waveform = np.random.default_rng(0).normal(0, 0.1, (rows, samples)).astype(np.float32)
  ours = TrainingStep(CodecTrainable(CodecTrainingConfig(model)), {"waveform": waveform})
  peer = torch_peers.CodecTraining(
    torch_peers.soundstream(16, model.latent_dim, model.num_quantizers), waveform
  )
  ours_seconds, theirs_seconds = _in_turns(ours.step, peer.step, rounds=3)
  seconds = rows * samples / model.sample_rate
  return {
    "ours_audio_per_second": round(seconds / ours_seconds, 2),
    "theirs_audio_per_second": round(seconds / theirs_seconds, 2),
    "ratio": round(theirs_seconds / ours_seconds, 2),
  }


def _in_turns(
  ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = 5
) -> tuple[float, float]:
  """Returns the fastest time of each, after a warm-up round."""
  best = [float("inf"), float("inf")]
  for round_number in range(rounds + 1):
    for index, run in enumerate((ours, theirs)):
      began = time.perf_counter()
      jax.block_until_ready(run())
      if round_number:
        best[index] = min(best[index], time.perf_counter() - began)
  return best[0], best[1]


def text(found: dict[str, Any]) -> str:
  """Returns the result in Markdown."""
  d, stage, codec, training = (
    found[name] for name in ("decoding", "stage_training", "codec", "codec_training")
  )
  ours = [f"| {p['position']} | {p['ms']:.0f} | |" for p in d["ours_by_position"]]
  theirs = [f"| {p['position']} | | {p['ms']:.0f} |" for p in d["audiolm_pytorch_by_position"]]
  rows = "\n".join(sorted(ours + theirs, key=lambda row: int(row.split("|")[1])))
  return f"""PyTorch {found["torch"]} in eager mode and audiolm-pytorch 2.4.0, in the same process \
and in turns; a ratio above 1 means that ours is faster.

| at the paper's coarse stage, batch 1 | theirs / ours |
|---|---:|
| the same transformer with a static cache in PyTorch, float32 ({d["eager_float32_ms"]} ms) \
| **{d["eager_float32_over_ours"]}** |
| the same in bfloat16 ({d["eager_bfloat16_ms"]} ms), ours in float32 \
| **{d["eager_bfloat16_over_ours"]}** |
| audiolm-pytorch with its cache, at position {d["audiolm_pytorch_by_position"][-1]["position"]} \
| **{d["audiolm_pytorch_over_ours_late"]}** |
| the same, at position {d["audiolm_pytorch_by_position"][0]["position"]} \
| **{d["audiolm_pytorch_over_ours_early"]}** |
| training a coarse stage of 6 layers and width 512 ({stage["ours_tokens_per_second"]} against \
{stage["theirs_tokens_per_second"]} tokens/s) | **{stage["ratio"]}** |
| the codec's encoder, 32 channels, ours with its quantizer | **{codec["encode_ratio"]}** |
| its decoder | **{codec["decode_ratio"]}** |
| training a codec of 16 channels with its discriminators \
({training["ours_audio_per_second"]} against {training["theirs_audio_per_second"]} audio s / s) \
| **{training["ratio"]}** |

| position | ours, ms a token | audiolm-pytorch, ms a token |
|---:|---:|---:|
{rows}

![milliseconds per token by position](results/time_per_token.png)"""


def save_plot(found: dict[str, Any], path: Any) -> None:
  """Plots the time per token by position, of this project and of audiolm-pytorch."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(7, 3.6), dpi=120, layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.add_subplot()
  for name, label in (("ours", "audiolm_jax"), ("audiolm_pytorch", "audiolm-pytorch 2.4.0")):
    points = found["decoding"][f"{name}_by_position"]
    axes.plot([p["position"] for p in points], [p["ms"] for p in points], "o-", label=label)
  axes.set(xlabel="position", ylabel="ms per token", ylim=(0, None))
  axes.legend(frameon=False)
  axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path)
