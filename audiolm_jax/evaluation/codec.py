"""How well a codec gives back what it was given, and how much of its codebooks it uses."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.codec.interface import Codec
from audiolm_jax.evaluation import signal
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate, mean_estimate


@dataclasses.dataclass(frozen=True)
class CodebookUse:
  """How evenly one level uses its codebook.

  Attributes:
    perplexity: exp of the entropy of the codes, in entries.
    share: perplexity over the size of the codebook.
    used: share of the entries that occur at all.
  """

  perplexity: Estimate
  share: Estimate
  used: float


@dataclasses.dataclass(frozen=True)
class CodecReport:
  """Reconstruction metrics by number of levels, and codebook use by level.

  Attributes:
    levels: number of levels -> metric -> estimate. Metrics: `log_mel_db` and `si_sdr_db`, for
      speech also `stoi` and, where package pesq is installed, `pesq_wb`; `bits_per_second`.
    codebooks: one per level, coarse to fine.
    num_frames: frames of all clips.
    seconds: audio of all clips.
    clips: per clip and number of levels, the same metrics.
    kept: per clip, shares of codes that decoding and encoding keep, as of `kept_codes`.
  """

  levels: dict[int, dict[str, Estimate]]
  codebooks: list[CodebookUse]
  num_frames: int
  seconds: float
  clips: list[dict[int, dict[str, float]]]
  kept: Float[np.ndarray, "clips 2 q"]

  def __str__(self) -> str:
    lines = [f"{len(self.clips)} clips, {self.seconds:.0f} s, {self.num_frames} frames"]
    for count, metrics in self.levels.items():
      shown = "  ".join(f"{name} {estimate}" for name, estimate in metrics.items())
      lines.append(f"levels {count:2d}: {shown}")
    for level, use in enumerate(self.codebooks):
      lines.append(
        f"codebook {level:2d}: perplexity {use.perplexity.value:.0f} "
        f"({100 * use.share.value:.0f} % of its size), {100 * use.used:.0f} % used"
      )
    return "\n".join(lines)


def evaluate_codec(
  codec: Codec,
  clips: Sequence[Float[np.ndarray, " samples"]],
  *,
  levels: Sequence[int] | None = None,
  speech: bool = True,
  on_decoded: Callable[[int, Float[np.ndarray, " samples"]], None] | None = None,
) -> CodecReport:
  """Encodes and decodes each clip, keeping the first `k` levels for each `k` of `levels`.

  Args:
    codec: gets each clip at its own length.
    clips: at the codec's sample rate, of any lengths.
    levels: numbers of levels; 1, 2, 4, 8 ... and all by default.
    speech: add the metrics that are defined for speech only (STOI, PESQ-WB).
    on_decoded: receives, clip by clip, each number of levels and the clip decoded from these.
  """
  spec = codec.spec
  if not len(clips):
    raise ValueError("no clips are given; at least one is needed")
  levels = default_levels(spec.num_quantizers) if levels is None else sorted(set(levels))
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
    metrics = {name: mean_estimate([row[count][name] for row in rows]) for name in rows[0][count]}
    rate = spec.bits_per_second * count / spec.num_quantizers
    estimates[count] = metrics | {"bits_per_second": Estimate(rate, rate, rate, len(rows))}
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
) -> dict[str, float]:
  """The metrics of one clip by name."""
  metrics = {
    "log_mel_db": signal.log_mel_distance(reference, estimate, sample_rate),
    "si_sdr_db": signal.si_sdr(reference, estimate),
  }
  if speech:
    metrics["stoi"] = signal.stoi(reference, estimate, sample_rate)
    if signal.pesq_installed():
      metrics["pesq_wb"] = signal.pesq_wb(reference, estimate, sample_rate)
  return metrics


def default_levels(num_quantizers: int) -> list[int]:
  """1, 2, 4, 8 ... and all."""
  powers = [2**k for k in range(16) if 2**k < num_quantizers]
  return [*powers, num_quantizers]


def decode_clip(
  codec: Codec, codes: Int[np.ndarray, "frames q"], num_samples: int
) -> Float[np.ndarray, " samples"]:
  """The waveform of one clip's codes."""
  return np.asarray(codec.decode(codes[None]), np.float32)[0, :num_samples]


def through_codec(
  codec: Codec, clip: Float[np.ndarray, " samples"], levels: int | None = None
) -> Float[np.ndarray, " samples"]:
  """A clip as the codec gives it back, from all levels or the first few."""
  return decode_clip(codec, np.asarray(codec.encode_long(clip))[:, :levels], len(clip))


def kept_codes(
  codec: Codec, codes: Int[np.ndarray, "frames q"], num_samples: int
) -> Float[np.ndarray, "2 q"]:
  """Share of the codes of each level that are found again when the decoded clip is encoded.

  First from the decoded clip as it is, then from the same delayed by half a frame, where no frame
  of the encoder has the position that it had before.

  Args:
    codes: of one clip, all levels.
    num_samples: length of the clip.
  """
  decoded = decode_clip(codec, codes, num_samples)
  delayed = np.pad(decoded, (codec.spec.hop_length // 2, 0))[:num_samples]
  again = [np.asarray(codec.encode_long(waveform)) for waveform in (decoded, delayed)]
  return np.stack([(found[: len(codes)] == codes).mean(axis=0) for found in again])


def code_counts(codes: Int[np.ndarray, "frames q"], size: int) -> Int[np.ndarray, "q size"]:
  """How often each entry of each level occurs."""
  return np.stack([np.bincount(column, minlength=size) for column in codes.T])


def codebook_use(counts: Int[np.ndarray, "clips size"]) -> CodebookUse:
  """Use of one codebook, resampled over clips."""
  size = counts.shape[-1]
  perplexity = bootstrap_estimate(lambda rows: code_perplexity(counts[rows].sum(0)), len(counts))
  share = Estimate(
    perplexity.value / size, perplexity.low / size, perplexity.high / size, perplexity.n
  )
  return CodebookUse(perplexity, share, float((counts.sum(0) > 0).mean()))


def code_perplexity(counts: Int[np.ndarray, " size"]) -> float:
  """exp of the entropy of the relative frequencies: 1 to the number of entries.

  The plug-in entropy is too low on few codes: give at least ten times as many as entries.
  """
  probabilities = counts[counts > 0] / max(1, counts.sum())
  return float(np.exp(-(probabilities * np.log(probabilities)).sum()))
