"""Measures reconstruction by a codec, and the use of its codebooks."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.codec.interface import Codec
from audiolm_jax.evaluation import signal
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate, exact, mean_estimate

LOG_MEL = Metric("log_mel_db", "log-mel distance", Better.LOWER, unit="dB")
SI_SDR = Metric("si_sdr_db", "SI-SDR", unit="dB")
STOI = Metric("stoi", "STOI")
PESQ_WB = Metric("pesq_wb", "PESQ-WB")
BITS_PER_SECOND = Metric("bits_per_second", "bits per second", Better.LOWER)


@dataclasses.dataclass(frozen=True)
class CodebookUse:
  """Statistics of how evenly one level uses its codebook.

  Attributes:
    perplexity: perplexity of the codes, an effective number of entries; see `code_perplexity`.
    share: perplexity divided by the size of the codebook.
    used: share of the codebook entries that occur.
  """

  perplexity: Estimate
  share: Estimate
  used: float


@dataclasses.dataclass(frozen=True)
class CodecReport:
  """Reconstruction metrics by number of levels, and codebook use by level.

  Attributes:
    levels: for each number of levels, the estimate of each metric, including `BITS_PER_SECOND`.
    codebooks: use of each level's codebook, coarse to fine.
    num_frames: total number of frames in all clips.
    seconds: total length of all clips in seconds.
    clips: for each clip and number of levels, the value of each metric; see
      `reconstruction_metrics`.
    kept: for each clip, the shares that `kept_codes` returns.
  """

  levels: dict[int, dict[Metric, Estimate]]
  codebooks: list[CodebookUse]
  num_frames: int
  seconds: float
  clips: list[dict[int, dict[Metric, float]]]
  kept: Float[np.ndarray, "clips 2 q"]


def evaluate_codec(
  codec: Codec,
  clips: Sequence[Float[np.ndarray, "_"]],
  levels: Sequence[int],
  *,
  speech: bool = True,
  on_decoded: Callable[[int, Float[np.ndarray, " samples"]], None] | None = None,
) -> CodecReport:
  """Measures reconstruction from the first `k` levels for each `k` in `levels`, and codebook use.

  Args:
    codec: the codec to measure, which encodes one clip at a time.
    clips: clips at the codec's sample rate, of any lengths.
    levels: numbers of levels, in increasing order.
    speech: whether to add the metrics that are defined for speech only (STOI, PESQ-WB).
    on_decoded: callback that receives a number of levels and the clip decoded from these levels, in
      the order of the clips; None for no callback.

  Raises:
    ValueError: there are no clips, or a number in `levels` is below 1 or above the number of levels
      of the codec.
  """
  spec = codec.spec
  if not len(clips):
    raise ValueError("no clips are given; at least one is needed")
  if levels[0] < 1 or levels[-1] > spec.num_quantizers:
    raise ValueError(f"levels {list(levels)} are not in 1..{spec.num_quantizers}")
  rows, counts, kept = [], [], []
  for clip in clips:
    codes = np.asarray(codec.encode_long(clip))
    counts.append(code_counts(codes, spec.codebook_size))
    row = {}
    for count in levels:
      decoded = decode_clip(codec, codes[:, :count], len(clip))
      row[count] = reconstruction_metrics(clip, decoded, spec.sample_rate, speech=speech)
      if on_decoded is not None:
        on_decoded(count, decoded)
    kept.append(kept_codes(codec, codes, len(clip)))
    rows.append(row)
  estimates = {}
  for count in levels:
    rate = spec.bits_per_second * count / spec.num_quantizers
    means = mean_metrics([row[count] for row in rows])
    estimates[count] = means | {BITS_PER_SECOND: exact(rate, len(rows))}
  table = np.stack(counts)
  return CodecReport(
    levels=estimates,
    codebooks=[codebook_use(table[:, level]) for level in range(spec.num_quantizers)],
    num_frames=int(table[:, 0].sum()),
    seconds=sum(len(clip) for clip in clips) / spec.sample_rate,
    clips=rows,
    kept=np.stack(kept),
  )


def reconstruction_metrics(
  reference: Float[np.ndarray, " samples"],
  estimate: Float[np.ndarray, " samples"],
  sample_rate: int,
  *,
  speech: bool,
) -> dict[Metric, float]:
  """Compares a reconstruction with its original.

  Args:
    reference: the original.
    estimate: the reconstruction.
    sample_rate: sample rate of both waveforms in Hz.
    speech: whether to add the metrics that are defined for speech only.

  Returns:
    `LOG_MEL` and `SI_SDR`; for speech also `STOI` and, if package pesq is installed, `PESQ_WB`.
  """
  metrics = {
    LOG_MEL: signal.log_mel_distance(reference, estimate, sample_rate),
    SI_SDR: signal.si_sdr(reference, estimate),
  }
  if speech:
    metrics[STOI] = signal.stoi(reference, estimate, sample_rate)
    if signal.pesq_installed():
      metrics[PESQ_WB] = signal.pesq_wb(reference, estimate, sample_rate)
  return metrics


def mean_metrics(clips: Sequence[dict[Metric, float]]) -> dict[Metric, Estimate]:
  """Returns the mean of each metric over one or more clips."""
  return {metric: mean_estimate([clip[metric] for clip in clips]) for metric in clips[0]}


def decode_clip(
  codec: Codec, codes: Int[np.ndarray, "frames q"], num_samples: int
) -> Float[np.ndarray, " samples"]:
  """Decodes the codes of one clip and returns the first `num_samples` samples."""
  return np.asarray(codec.decode(codes[None]), np.float32)[0, :num_samples]


def through_codec(
  codec: Codec, clip: Float[np.ndarray, " samples"], levels: int | None = None
) -> Float[np.ndarray, " samples"]:
  """Encodes and decodes a clip with the first `levels` levels; None for all levels."""
  return decode_clip(codec, np.asarray(codec.encode_long(clip))[:, :levels], len(clip))


def kept_codes(
  codec: Codec, codes: Int[np.ndarray, "frames q"], num_samples: int
) -> Float[np.ndarray, "2 q"]:
  """Returns the share of each level's codes that re-encoding the decoded clip does not change.

  Args:
    codec: the codec that decodes the codes and encodes the result.
    codes: codes of one clip, all levels.
    num_samples: length of the clip in samples.

  Returns:
    Row 0 has the shares for the decoded clip. Row 1 has the shares for the decoded clip delayed by
    half a frame, so that the frames of the encoder begin elsewhere in the sound.
  """
  decoded = decode_clip(codec, codes, num_samples)
  delayed = np.pad(decoded, (codec.spec.hop_length // 2, 0))[:num_samples]
  again = [np.asarray(codec.encode_long(waveform)) for waveform in (decoded, delayed)]
  return np.stack([(found[: len(codes)] == codes).mean(axis=0) for found in again])


def code_counts(codes: Int[np.ndarray, "frames q"], size: int) -> Int[np.ndarray, "q size"]:
  """Counts the occurrences of each codebook entry, level by level."""
  return np.stack([np.bincount(column, minlength=size) for column in codes.T])


def codebook_use(counts: Int[np.ndarray, "clips size"]) -> CodebookUse:
  """Returns the use of one codebook, with intervals over clips."""
  size = counts.shape[-1]
  perplexity = bootstrap_estimate(lambda rows: code_perplexity(counts[rows].sum(0)), len(counts))
  share = perplexity.mapped(lambda value: value / size)
  return CodebookUse(perplexity, share, float((counts.sum(0) > 0).mean()))


def code_perplexity(counts: Int[np.ndarray, " size"]) -> float:
  """Returns the perplexity of codes, from 1 to the codebook size.

  The perplexity is exp(entropy), where the entropy is computed from relative frequencies. The
  estimate is too low for few codes: count at least ten times as many codes as entries.
  """
  probabilities = counts[counts > 0] / max(1, counts.sum())
  return float(np.exp(-(probabilities * np.log(probabilities)).sum()))
