"""Reconstruction by number of levels, beside codecs of others, and use of the codebooks."""

import itertools
from collections.abc import Sequence
from typing import Any

from audiolm_jax.codec.interface import Codec
from audiolm_jax.errors import UserError
from audiolm_jax.evaluation import lyra, signal
from audiolm_jax.evaluation.clips import EvalClip, new_pieces
from audiolm_jax.evaluation.codec import evaluate_codec
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.outside_codecs import OutsideCodec, evaluate_outside, opus_codecs
from audiolm_jax.evaluation.report import Better, Row, SuiteResult, exact
from audiolm_jax.evaluation.statistics import mean_estimate


def run(bundle: Any, options: Options) -> SuiteResult:
  """Of the bundle's codec, at all levels and at its coarse stage's, and of outside codecs."""
  stage = bundle.stages.get("coarse")
  outside, left_out = outside_codecs(bundle.sample_rate, options.lyra_dir)
  clips = new_pieces(options, bundle.sample_rate, options.max_clips, 1.0)
  inside = codec_suite(
    bundle.codec,
    clips,
    options.domain,
    coarse_levels=stage.spec.num_target_quantizers if stage else 4,
  )
  beside = outside_suite(outside, clips, bundle.sample_rate, options.domain)
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
  codecs: Sequence[OutsideCodec], clips: Sequence[EvalClip], sample_rate: int, domain: Domain
) -> SuiteResult:
  """Reconstruction by codecs of others, by the measures of the bundle's."""
  rows, details = [], {}
  for codec in codecs:
    report = evaluate_outside(
      codec, [clip.waveform for clip in clips], sample_rate, speech=domain is Domain.SPEECH
    )
    note = f"takes {report.metrics['bits_per_second'].value / 1000:.3g} kbit/s"
    rows += [
      Row("codec", f"{name}, {codec.name}", estimate, _better(name), note=note)
      for name, estimate in report.metrics.items()
      if name != "bits_per_second"
    ]
    details[codec.name] = report
  return SuiteResult(rows, details)


def codec_suite(
  codec: Codec, clips: Sequence[EvalClip], domain: Domain, *, coarse_levels: int = 4
) -> SuiteResult:
  """Reconstruction by number of levels, and codebook use.

  Args:
    coarse_levels: levels that all levels are compared with.
  """
  every = codec.spec.num_quantizers
  base = min(coarse_levels, every)
  levels = sorted({1, 2, 4, 8, base, every} & set(range(1, every + 1)))
  report = evaluate_codec(
    codec, [clip.waveform for clip in clips], levels=levels, speech=domain is Domain.SPEECH
  )
  marks = {"stoi": (0.80, 0.909), "pesq_wb": (1.6, 2.79)}
  rows = []
  for count, metrics in report.levels.items():
    for name, estimate in metrics.items():
      if name == "bits_per_second":
        continue
      floor, aim = marks.get(name, (None, None)) if count == every else (None, None)
      rows.append(Row("codec", f"{name}, {count} levels", estimate, _better(name), floor, aim))
  if domain is Domain.SPEECH and not signal.pesq_installed():
    floor, aim = marks["pesq_wb"]
    figure = f"pesq_wb, {every} levels"
    rows.append(
      Row("codec", figure, mean_estimate([]), floor=floor, aim=aim, note=signal.PESQ_MISSING)
    )
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
  return SuiteResult(rows, {"report": report})


def _better(metric: str) -> Better:
  return Better.LOWER if metric == "log_mel_db" else Better.HIGHER
