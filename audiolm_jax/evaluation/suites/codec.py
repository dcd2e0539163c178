"""Reconstruction by number of levels, beside codecs of others, and use of the codebooks."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from audiolm_jax.codec.interface import Codec
from audiolm_jax.core.errors import UserError
from audiolm_jax.data.manifest import clips_of_split, list_clips
from audiolm_jax.evaluation import lyra, signal
from audiolm_jax.evaluation.clips import EvalClip, new_pieces
from audiolm_jax.evaluation.codec import CodecReport, evaluate_codec
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.outside_codecs import OutsideCodec, evaluate_outside, opus_codecs
from audiolm_jax.evaluation.report import Better, ClipFigure, Row, SuiteResult, exact
from audiolm_jax.evaluation.speech import (
  NO_MEASURES,
  RECORDING,
  Description,
  SpeechMeasures,
  find_measures,
  speech_figures,
)
from audiolm_jax.evaluation.statistics import mean_estimate
from audiolm_jax.evaluation.transcripts import texts_of


def run(bundle: Any, options: Options) -> SuiteResult:
  """Of the bundle's codec, at all levels and at its first stage's, and of outside codecs."""
  first = [stage.spec.writes for stage in bundle.stages.values() if stage.spec.writes.levels]
  outside, left_out = outside_codecs(bundle.sample_rate, options.lyra_dir)
  measures = find_measures(options)
  texts = (
    texts_of(clips_of_split(list_clips(options.data), "valid"), options.data)
    if measures.recognizer
    else None
  )
  clips = new_pieces(options, bundle.sample_rate, options.max_clips, 1.0, texts)
  recordings = [measures.describe(clip.waveform, bundle.sample_rate) for clip in clips]
  inside = codec_suite(
    bundle.codec,
    clips,
    options.domain,
    coarse_levels=first[0].end_level if first else 4,
    measures=measures,
    recordings=recordings,
  )
  beside = outside_suite(
    outside, clips, bundle.sample_rate, options.domain, measures=measures, recordings=recordings
  )
  details = inside.details | {"outside": beside.details | left_out}
  return SuiteResult(inside.rows + beside.rows, details)


def outside_codecs(
  sample_rate: int, lyra_dir: str | None
) -> tuple[list[OutsideCodec], dict[str, dict[str, str]]]:
  """The outside codecs that can be run here, and by name why others are left out.

  Raises:
    UserError: Lyra is asked for and cannot be run.
  """
  codecs, left_out = [], {}
  if lyra_dir:
    codecs += lyra.lyra_codecs(lyra_dir)
  else:
    left_out["Lyra v2"] = {"left_out": "no --lyra_dir is given"}
  try:
    codecs += opus_codecs(sample_rate)
  except UserError as error:
    left_out["Opus"] = {"left_out": str(error)}
  return codecs, left_out


def outside_suite(
  codecs: Sequence[OutsideCodec],
  clips: Sequence[EvalClip],
  sample_rate: int,
  domain: Domain,
  *,
  measures: SpeechMeasures = NO_MEASURES,
  recordings: Sequence[Description] = (),
) -> SuiteResult:
  """Reconstruction by codecs of others, by the measures of the bundle's.

  Args:
    measures, recordings: as of `codec_suite`.
  """
  rows, details = [], {}
  for codec in codecs:
    found: list[Description] = []
    report = evaluate_outside(
      codec,
      [clip.waveform for clip in clips],
      sample_rate,
      speech=domain is Domain.SPEECH,
      on_decoded=lambda decoded, found=found: found.append(measures.describe(decoded, sample_rate)),
    )
    note = f"takes {report.metrics['bits_per_second'].value / 1000:.3g} kbit/s"
    rows += [
      Row("codec", f"{name}, {codec.name}", estimate, _better(name), note=note)
      for name, estimate in report.metrics.items()
      if name != "bits_per_second"
    ]
    if measures:
      figures = speech_figures({codec.name: found}, recordings, clips, measures.recognizer)
      rows += [f.row("codec") for f in figures if not f.name.endswith(f", {RECORDING}")]
    details[codec.name] = report
  return SuiteResult(rows, details)


def codec_suite(
  codec: Codec,
  clips: Sequence[EvalClip],
  domain: Domain,
  *,
  coarse_levels: int = 4,
  measures: SpeechMeasures = NO_MEASURES,
  recordings: Sequence[Description] = (),
) -> SuiteResult:
  """Reconstruction by number of levels, codes kept by decoding and encoding, and codebook use.

  Where the clips are of several sources, the figures of all levels and of the coarse ones are given
  for each source too.

  Args:
    coarse_levels: levels that all levels are compared with.
    measures: what is measured beside signals, with all levels and the coarse ones.
    recordings: what these find in each clip as it is.
  """
  every = codec.spec.num_quantizers
  base = min(coarse_levels, every)
  levels = sorted({1, 2, 4, 8, base, every} & set(range(1, every + 1)))
  described: dict[str, list[Description]] = {_levels(count): [] for count in (base, every)}

  def describe(count: int, decoded: np.ndarray) -> None:
    if count in (base, every):
      described[_levels(count)].append(measures.describe(decoded, codec.spec.sample_rate))

  report = evaluate_codec(
    codec,
    [clip.waveform for clip in clips],
    levels=levels,
    speech=domain is Domain.SPEECH,
    on_decoded=describe,
  )
  figures = _signal_figures(report) + _kept_figures(report)
  if measures:
    figures += speech_figures(described, recordings, clips, measures.recognizer)
  marks = {f"stoi, {_levels(every)}": (0.80, 0.909), f"pesq_wb, {_levels(every)}": (1.6, 2.79)}
  rows = []
  for figure in figures:
    floor, aim = marks.get(figure.name, (None, None))
    rows.append(dataclasses.replace(figure.row("codec"), floor=floor, aim=aim))
  if domain is Domain.SPEECH and not signal.pesq_installed():
    name = f"pesq_wb, {_levels(every)}"
    floor, aim = marks[name]
    rows.append(
      Row("codec", name, mean_estimate([]), floor=floor, aim=aim, note=signal.PESQ_MISSING)
    )
  rows += measures.missing_rows("codec")
  if base < every:
    gain = [row[base]["log_mel_db"] - row[every]["log_mel_db"] for row in report.clips]
    figure = f"log_mel_db gained by {every} over {base} levels"
    rows.append(Row("codec", figure, mean_estimate(gain), floor=0.0))
  means = [report.levels[count]["log_mel_db"].value for count in levels]
  falling = all(a > b for a, b in itertools.pairwise(means))
  rows.append(
    Row("codec", "log_mel_db falls with every level (1 = yes)", exact(falling), floor=1.0)
  )
  worst = min(report.codebooks, key=lambda use: use.share.value)
  rows.append(
    Row(
      "codec",
      "codebook perplexity over its size, worst level",
      worst.share,
      floor=0.30,
      aim=0.60,
      note=f"{report.num_frames} frames for {codec.spec.codebook_size} entries",
    )
  )
  for level, use in enumerate(report.codebooks):
    rows.append(Row("codec", f"codebook {level} perplexity over its size", use.share))
  left = tuple(f", {_levels(count)}" for count in levels if count not in (base, every))
  rows += _rows_by_source([f for f in figures if not f.name.endswith(left)], clips)
  details: dict[str, Any] = {"report": report, "clips": [clip.id for clip in clips]}
  if measures.recognizer is not None:
    details["recognizer"] = measures.recognizer.name
    details["words"] = {
      label: [one.words for one in found]
      for label, found in {RECORDING: recordings, **described}.items()
    }
  return SuiteResult(rows, details)


def _rows_by_source(figures: Sequence[ClipFigure], clips: Sequence[EvalClip]) -> list[Row]:
  """Each figure for each source, where there are several."""
  sources = sorted({clip.source or "no source" for clip in clips})
  if len(sources) < 2:
    return []
  rows = []
  for source in sources:
    chosen = [i for i, clip in enumerate(clips) if (clip.source or "no source") == source]
    rows += [figure.row("codec", chosen, f"; {source}") for figure in figures]
  return rows


def _signal_figures(report: CodecReport) -> list[ClipFigure]:
  """What each clip's waveform says, by number of levels."""
  return [
    ClipFigure(
      f"{name}, {_levels(count)}",
      np.array([clip[count][name] for clip in report.clips]),
      _better(name),
    )
    for count, metrics in report.levels.items()
    for name in metrics
    if name != "bits_per_second"
  ]


def _kept_figures(report: CodecReport) -> list[ClipFigure]:
  """Codes that are found again, by groups of levels."""
  every = report.kept.shape[-1]
  groups = {"level 1": slice(0, 1), "levels 2 to 4": slice(1, 4), "all levels": slice(None)}
  if every < 4:
    groups["levels 2 to 4"] = slice(1, 1)
  return [
    ClipFigure(
      f"codes kept by decoding and encoding{delay}, {group}",
      report.kept[:, row, chosen].mean(axis=-1),
    )
    for row, delay in enumerate(("", " half a frame later"))
    for group, chosen in groups.items()
    if report.kept[0, row, chosen].size
  ]


def _levels(count: int) -> str:
  return f"{count} levels"


def _better(metric: str) -> Better:
  return Better.LOWER if metric == "log_mel_db" else Better.HIGHER
