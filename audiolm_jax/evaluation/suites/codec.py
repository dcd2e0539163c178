"""Measures reconstruction by a bundle's codec and by other projects' codecs, and codebook use."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from audiolm_jax.bundles import Bundle
from audiolm_jax.codec.interface import Codec
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import UserError
from audiolm_jax.data.manifest import clips_of_split, list_clips
from audiolm_jax.evaluation import codec as reconstruction
from audiolm_jax.evaluation import lyra, signal, speech
from audiolm_jax.evaluation.clips import EvalClip, new_pieces
from audiolm_jax.evaluation.codec import BITS_PER_SECOND, LOG_MEL, PESQ_WB, STOI, mean_metrics
from audiolm_jax.evaluation.metric import Metric
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.outside_codecs import OutsideCodec, evaluate_outside, opus_codecs
from audiolm_jax.evaluation.report import Row, SuiteResult, row_of
from audiolm_jax.evaluation.statistics import exact, undefined
from audiolm_jax.evaluation.transcripts import texts_of

KEPT = Metric("codes_kept", "codes kept by decoding and encoding")
KEPT_DELAYED = Metric(
  "codes_kept_delayed", "codes kept by decoding and encoding half a frame later"
)
GAIN = Metric("log_mel_gain", "log-mel distance gained", unit="dB")
FALLS = Metric("log_mel_falls", "log-mel distance falls with every level (1 = yes)")
CODEBOOK_SHARE = Metric("codebook_share", "codebook perplexity over its size")
_MARKS = {STOI: (0.80, 0.909), PESQ_WB: (1.6, 2.79)}  # floor and aim with all levels


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Measures the bundle's codec and codecs of other projects on held-out clips."""
  first = [stage.spec.writes for stage in bundle.stages.values() if stage.spec.writes.levels]
  outside, skipped = outside_codecs(bundle.sample_rate, options.lyra_dir)
  measures = speech.find_measures(options)
  texts = None
  if measures.recognizer is not None:
    texts = texts_of(clips_of_split(list_clips(options.data), "valid"), options.data)
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
  others = outside_suite(
    outside, clips, bundle.sample_rate, options.domain, measures=measures, recordings=recordings
  )
  details = inside.details | {"outside": others.details | skipped}
  return SuiteResult(inside.rows + others.rows, details)


def outside_codecs(
  sample_rate: int, lyra_dir: str | None
) -> tuple[list[OutsideCodec], dict[str, dict[str, str]]]:
  """Returns the codecs of other projects that can run on this machine.

  Args:
    sample_rate: sample rate of the clips in Hz.
    lyra_dir: folder of Lyra's models; None to skip Lyra.

  Returns:
    The codecs, and for each skipped codec, by name, an entry for the JSON file with the reason.

  Raises:
    UserError: `lyra_dir` is given, but Lyra cannot run.
  """
  codecs, skipped = [], {}
  if lyra_dir:
    codecs += lyra.lyra_codecs(lyra_dir)
  else:
    skipped["Lyra v2"] = {"skipped": "it needs its models (--lyra_dir)"}
  try:
    codecs += opus_codecs(sample_rate)
  except UserError as error:
    skipped["Opus"] = {"skipped": str(error)}
  return codecs, skipped


def outside_suite(
  codecs: Sequence[OutsideCodec],
  clips: Sequence[EvalClip],
  sample_rate: int,
  domain: Domain,
  *,
  measures: speech.SpeechMeasures = speech.NO_MEASURES,
  recordings: Sequence[speech.Description] = (),
) -> SuiteResult:
  """Measures reconstruction by codecs of other projects.

  Args:
    codecs: the codecs.
    clips: clips at `sample_rate`.
    sample_rate: sample rate of the clips in Hz.
    domain: kind of audio; SPEECH adds the metrics that are defined for speech only.
    measures: networks that describe the decoded clips.
    recordings: descriptions of the original clips by `measures`.
  """
  rows, details = [], {}
  for codec in codecs:
    found: list[speech.Description] = []
    of_clips = evaluate_outside(
      codec,
      [clip.waveform for clip in clips],
      sample_rate,
      speech=domain is Domain.SPEECH,
      on_decoded=lambda decoded, found=found: found.append(measures.describe(decoded, sample_rate)),
    )
    metrics = mean_metrics(of_clips)
    note = f"takes {metrics[BITS_PER_SECOND].value / 1000:.3g} kbit/s"
    rows += [
      Row(metric, estimate, codec.name, note=note)
      for metric, estimate in metrics.items()
      if metric != BITS_PER_SECOND
    ]
    if measures:
      of_codec = speech.speech_rows({codec.name: found}, recordings, clips, measures.recognizer)
      rows += [row for row in of_codec if row.of != speech.RECORDING]
    details[codec.name] = {"metrics": metrics, "clips": of_clips}
  return SuiteResult(rows, details)


def codec_suite(
  codec: Codec,
  clips: Sequence[EvalClip],
  domain: Domain,
  *,
  coarse_levels: int = 4,
  measures: speech.SpeechMeasures = speech.NO_MEASURES,
  recordings: Sequence[speech.Description] = (),
) -> SuiteResult:
  """Measures reconstruction by number of levels, codes kept by re-encoding, and codebook use.

  If the clips have several sources, some rows are repeated for each source: the rows of
  `measures`, of kept codes, and of reconstruction from the coarse levels and from all levels.

  Args:
    codec: the codec.
    clips: clips at the codec's sample rate.
    domain: kind of audio; SPEECH adds the metrics that are defined for speech only.
    coarse_levels: number of coarse levels; reconstruction from these levels and from all levels is
      compared.
    measures: networks that describe the clips decoded from all levels and from the coarse levels.
    recordings: descriptions of the original clips by `measures`.

  Raises:
    ValueError: there are no clips.
  """
  every = codec.spec.num_quantizers
  base = min(coarse_levels, every)
  levels = sorted({1, 2, 4, 8, base, every} & set(range(1, every + 1)))
  described: dict[str, list[speech.Description]] = {_levels(count): [] for count in (base, every)}

  def describe(count: int, decoded: np.ndarray) -> None:
    if count in (base, every):
      described[_levels(count)].append(measures.describe(decoded, codec.spec.sample_rate))

  report = reconstruction.evaluate_codec(
    codec,
    [clip.waveform for clip in clips],
    levels,
    speech=domain is Domain.SPEECH,
    on_decoded=describe,
  )
  averages = _signal_rows(report) + _kept_rows(report)
  if measures:
    averages += speech.speech_rows(described, recordings, clips, measures.recognizer)
  rows = list(averages)
  if domain is Domain.SPEECH and not signal.pesq_installed():
    missing = Row(PESQ_WB, undefined(), _levels(every), *_MARKS[PESQ_WB])
    rows.append(dataclasses.replace(missing, note=signal.PESQ_MISSING))
  rows += measures.missing_rows()
  if base < every:
    gain = [row[base][LOG_MEL] - row[every][LOG_MEL] for row in report.clips]
    rows.append(row_of(GAIN, gain, f"{every} over {base} levels", floor=0.0))
  means = [report.levels[count][LOG_MEL].value for count in levels]
  falling = all(a > b for a, b in itertools.pairwise(means))
  rows.append(Row(FALLS, exact(falling), floor=1.0))
  worst = min(report.codebooks, key=lambda use: use.share.value)
  note = f"{report.num_frames} frames for {codec.spec.codebook_size} entries"
  rows.append(Row(CODEBOOK_SHARE, worst.share, "worst level", 0.30, 0.60, note))
  rows += [
    Row(CODEBOOK_SHARE, use.share, f"level {level}") for level, use in enumerate(report.codebooks)
  ]
  others = {_levels(count) for count in levels if count not in (base, every)}
  rows += _rows_by_source([row for row in averages if row.of not in others], clips)
  details: JsonDict = {"report": report, "clips": [clip.id for clip in clips]}
  if measures.recognizer is not None:
    details["recognizer"] = measures.recognizer.name
    details["words"] = {
      kind: [one.words for one in found]
      for kind, found in {speech.RECORDING: recordings, **described}.items()
    }
  return SuiteResult(rows, details)


def _rows_by_source(rows: Sequence[Row], clips: Sequence[EvalClip]) -> list[Row]:
  """Returns each row over the clips of each source; an empty list if there is only one source."""
  sources = [clip.source or "no source" for clip in clips]
  if len(set(sources)) < 2:
    return []
  by_source = {name: [i for i, s in enumerate(sources) if s == name] for name in set(sources)}
  return [row.over(by_source[name], f"; {name}") for name in sorted(by_source) for row in rows]


def _signal_rows(report: reconstruction.CodecReport) -> list[Row]:
  """Returns the reconstruction metrics by number of levels."""
  every = max(report.levels)
  rows = []
  for count, metrics in report.levels.items():
    for metric in [metric for metric in metrics if metric != BITS_PER_SECOND]:
      floor, aim = _MARKS.get(metric, (None, None)) if count == every else (None, None)
      values = [clip[count][metric] for clip in report.clips]
      rows.append(row_of(metric, values, _levels(count), floor=floor, aim=aim))
  return rows


def _kept_rows(report: reconstruction.CodecReport) -> list[Row]:
  """Returns the shares of codes that re-encoding does not change, by groups of levels."""
  groups = {"level 1": slice(0, 1), "levels 2 to 4": slice(1, 4), "all levels": slice(None)}
  if report.kept.shape[-1] < 4:
    del groups["levels 2 to 4"]
  return [
    row_of(metric, report.kept[:, delayed, chosen].mean(axis=-1), group)
    for delayed, metric in enumerate((KEPT, KEPT_DELAYED))
    for group, chosen in groups.items()
  ]


def _levels(count: int) -> str:
  return f"{count} levels"
