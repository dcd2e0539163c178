"""Codecs made by others, which a bundle's codec is set beside; the first of them is Opus."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import degradations
from audiolm_jax.evaluation.codec import reconstruction_metrics
from audiolm_jax.evaluation.statistics import Estimate, mean_estimate
from audiolm_jax.io import audio

_OPUS_SAMPLE_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
_OPUS_RATES = (6_000, 9_000, 12_000)
_OPUS_HEADERS = 2  # packets before the first that holds sound
# Bits per second at libsndfile's compression levels 1 and 0, between which it is linear.
_OPUS_LOWEST, _OPUS_HIGHEST = 6_000, 256_000


@dataclasses.dataclass(frozen=True)
class OutsideCodec:
  """A codec that is not the project's.

  Attributes:
    name: with the bit rate that it is asked for.
    sample_rate: Hz, of what goes in and of what comes out.
    through: takes a clip; returns it as the codec gives it back, in time with it and as long, and
      the bits per second that this took, without a container.
  """

  name: str
  sample_rate: int
  through: Callable[[Float[np.ndarray, " samples"]], tuple[Float[np.ndarray, " samples"], float]]


@dataclasses.dataclass(frozen=True)
class OutsideReport:
  """What an outside codec makes of some clips.

  Attributes:
    metrics: metric -> estimate; the metrics of `CodecReport`.
    clips: per clip, the same metrics.
  """

  metrics: dict[str, Estimate]
  clips: list[dict[str, float]]


def evaluate_outside(
  codec: OutsideCodec,
  clips: Sequence[Float[np.ndarray, " samples"]],
  sample_rate: int,
  *,
  speech: bool,
  on_decoded: Callable[[Float[np.ndarray, " samples"]], None] | None = None,
) -> OutsideReport:
  """Passes each clip through the codec and compares at the clips' sample rate.

  Args:
    clips: at `sample_rate`, of any lengths.
    speech: add the metrics that are defined for speech only.
    on_decoded: is called with each clip as the codec gives it back.
  """
  rows = []
  for clip in clips:
    decoded, rate = codec.through(_resample(clip, sample_rate, codec.sample_rate))
    decoded = audio.fit_length(_resample(decoded, codec.sample_rate, sample_rate), len(clip))
    metrics = reconstruction_metrics(clip, decoded, sample_rate, speech=speech)
    rows.append(metrics | {"bits_per_second": rate})
    if on_decoded is not None:
      on_decoded(decoded)
  return OutsideReport({name: mean_estimate([row[name] for row in rows]) for name in rows[0]}, rows)


def opus_codecs(sample_rate: int) -> list[OutsideCodec]:
  """Opus at low rates, at its lowest sample rate that is not below `sample_rate`.

  The encoder spends more or less than it is asked for, by what there is to hear.

  Raises:
    UserError: the libsndfile that is installed has no Opus.
  """
  if "OPUS" not in soundfile.available_subtypes("OGG"):
    version = soundfile.__libsndfile_version__
    raise UserError(f"libsndfile {version} has no Opus; pip install soundfile brings one that has")
  own_rate = next((r for r in _OPUS_SAMPLE_RATES if r >= sample_rate), _OPUS_SAMPLE_RATES[-1])

  def at_rate(bits_per_second: int) -> OutsideCodec:
    level = (_OPUS_HIGHEST - bits_per_second) / (_OPUS_HIGHEST - _OPUS_LOWEST)

    def through(waveform):
      encoded = degradations.encode(waveform, own_rate, "opus", level)
      bits = 8 * sum(ogg_packet_sizes(encoded)[_OPUS_HEADERS:])
      decoded = degradations.decode(encoded, own_rate, len(waveform))
      return decoded, bits * own_rate / len(waveform)

    return OutsideCodec(f"Opus at {bits_per_second / 1000:g} kbit/s", own_rate, through)

  return [at_rate(rate) for rate in _OPUS_RATES]


def ogg_packet_sizes(stream: bytes) -> list[int]:
  """Bytes of each packet of an Ogg file, without the pages around them.

  Source: RFC 3533, sections 5 and 6.
  """
  sizes, size, page = [], 0, 0
  while page < len(stream):
    table = page + 27
    segments = stream[table : table + stream[table - 1]]
    for segment in segments:
      size += segment
      if segment < 255:  # the last of its packet
        sizes.append(size)
        size = 0
    page = table + len(segments) + sum(segments)
  return sizes


def _resample(
  waveform: Float[np.ndarray, " samples"], sample_rate: int, new_rate: int
) -> Float[np.ndarray, " resampled"]:
  return waveform if sample_rate == new_rate else soxr.resample(waveform, sample_rate, new_rate)
