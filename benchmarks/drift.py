"""Measures two minutes of continuation: level, brightness, voice, variety, time.

  python -m benchmarks.drift --data MANIFEST

Prompts are clips of the split "valid", one per speaker. The speaker embedding is trained on
"train". Writes results/drift.md and results/drift.png.
"""

import dataclasses
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from audiolm_jax import bundles
from audiolm_jax.core.command_line import run_cli
from audiolm_jax.evaluation import clips
from audiolm_jax.evaluation.continuation import sound_statistics
from audiolm_jax.evaluation.speaker import SpeakerModel
from audiolm_jax.evaluation.suites.continuation import codec_speaker_model
from benchmarks import machine

FLAGS = flags.FlagValues()
RESULTS = Path(__file__).parent / "results"
_PART_SECONDS = 10.0

flags.DEFINE_string("data", None, "Manifest with splits train and valid.", flag_values=FLAGS)
flags.DEFINE_string("bundle", "speech", "Bundle to sample with.", flag_values=FLAGS)
flags.DEFINE_integer("prompts", 8, "Number of speakers.", flag_values=FLAGS)
flags.DEFINE_float("duration", 120.0, "Seconds of each continuation.", flag_values=FLAGS)


@dataclasses.dataclass(frozen=True)
class Part:
  """Means over the prompts, for one interval of ten seconds.

  Attributes:
    level_db: relative to the prompt.
    sound: share of 20 ms frames that are not silent relative to the prompt.
    centroid_hz: of the spectrum of its active frames.
    voice: cosine to the prompt in the speaker embedding.
    entropy_bits: of the semantic tokens.
  """

  level_db: float
  sound: float
  centroid_hz: float
  voice: float
  entropy_bits: float


def main(argv: Sequence[str]) -> None:
  """Samples, measures and writes the page."""
  del argv
  bundle = bundles.load_bundle(FLAGS.bundle)
  rate = bundle.sample_rate
  train = clips.load_pieces(
    FLAGS.data, "train", rate, max_clips=600, piece_seconds=14.0, least_seconds=2.0
  )
  voices = codec_speaker_model(bundle.codec, train)
  valid = clips.load_pieces(FLAGS.data, "valid", rate, least_seconds=13.0)
  real = [*{clip.speaker: clip.waveform for clip in valid[::-1]}.values()][: FLAGS.prompts]
  settings: Any = {"duration": FLAGS.duration, "prompt_audio": "none"}
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  made = [
    bundle.continue_audio(prompt[: 3 * rate], rate, seed=i, **settings).waveform
    for i, prompt in enumerate(real)
  ]
  grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
  prompts = [bundle.decode(bundle.encode(p[: 3 * rate], rate).codes) for p in real]
  rows = []
  for start in np.arange(0, FLAGS.duration, _PART_SECONDS):
    cut = slice(round(start * rate), round((start + _PART_SECONDS) * rate))
    rows.append(_part(bundle, voices, prompts, [waveform[cut] for waveform in made]))
  decoded = [bundle.decode(bundle.encode(p[3 * rate :], rate).codes) for p in real]
  reference = _part(bundle, voices, prompts, decoded)
  seconds = _seconds_by_part(bundle, real[0][: 3 * rate])
  page = _page(rows, reference, seconds, grown, len(real))
  (RESULTS / "drift.md").write_text(page, encoding="utf-8")
  _save_plot(rows, reference, RESULTS / "drift.png")
  print(page)


def _part(
  bundle: Any, voices: SpeakerModel, prompts: Sequence[np.ndarray], parts: Sequence[np.ndarray]
) -> Part:
  rate, found = bundle.sample_rate, []
  for prompt, part in zip(prompts, parts, strict=True):
    before = sound_statistics(prompt, rate)
    after = sound_statistics(part, rate, loud_db=before.level_db)
    semantic = bundle.encode(part, rate).semantic
    shares = np.unique(semantic, return_counts=True)[1] / len(semantic)
    voice = float(voices.embed(prompt, rate) @ voices.embed(part, rate))
    entropy = float(-(shares * np.log2(shares)).sum())
    level = after.level_db - before.level_db
    found.append([level, after.active_share, after.centroid_hz, voice, entropy])
  return Part(*np.nanmean(found, axis=0).tolist())


def _seconds_by_part(bundle: Any, prompt: np.ndarray) -> list[float]:
  """Returns the computation time of each ten seconds of one streamed continuation."""
  settings: Any = {"duration": FLAGS.duration, "prompt_audio": "none"}
  marks, streamed = [time.perf_counter()], 0
  for piece in bundle.stream(prompt, bundle.sample_rate, **settings):
    streamed += len(piece)
    if streamed >= len(marks) * _PART_SECONDS * bundle.sample_rate:
      marks.append(time.perf_counter())
  return np.diff(marks).tolist()


def _page(rows: list[Part], real: Part, seconds: list[float], grown: float, count: int) -> str:
  facts = machine.facts()

  def line(name: str, part: Part, spent: str) -> str:
    return (
      f"| {name} | {part.level_db:+.1f} | {part.sound:.0%} | {part.centroid_hz:.0f} "
      f"| {part.voice:.2f} | {part.entropy_bits:.2f} | {spent} |"
    )

  lines = [
    line(f"{10 * i} to {10 * i + 10}", part, f"{spent:.1f}")
    for i, (part, spent) in enumerate(zip(rows, seconds, strict=False))
  ]
  body = "\n".join([*lines, line("the speakers themselves", real, "")])
  return f"""# Two minutes of continuation

`{FLAGS.bundle}`, prompts of 3 s of {count} speakers it was not trained on, means over \
them; level beside the prompt's, voice as the cosine to the prompt's in a speaker embedding that \
is independent of the models, entropy of the semantic tokens. The last row is the real \
continuation of the speakers, through the codec. Memory grew by {grown:.0f} MiB in all. `python -m \
benchmarks.drift --data MANIFEST` makes this page.

| seconds | level, dB | sound | centroid, Hz | voice | entropy, bits | computed in, s |
|---|---:|---:|---:|---:|---:|---:|
{body}

![curves](drift.png)

<sub>{facts["machine"]}, {facts["cores"]} cores, jax {facts["packages"]["jax"]}, commit \
{(facts["commit"] or "unknown")[:7]}.</sub>
"""


def _save_plot(rows: list[Part], real: Part, path: Path) -> None:
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(10, 2.4), dpi=120, layout="constrained")
  FigureCanvasAgg(figure)
  titles = {
    "level_db": "level, dB",
    "sound": "share of sound",
    "centroid_hz": "centroid, Hz",
    "voice": "voice, cosine",
    "entropy_bits": "entropy, bits",
  }
  middles = _PART_SECONDS * (np.arange(len(rows)) + 0.5)
  for axes, (name, title) in zip(
    np.ravel(figure.subplots(1, len(titles))), titles.items(), strict=True
  ):
    axes.plot(middles, [getattr(part, name) for part in rows], "o-", markersize=3)
    axes.axhline(getattr(real, name), color="gray", linestyle="--", linewidth=1)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("seconds", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path)


if __name__ == "__main__":
  run_cli(main, FLAGS)
