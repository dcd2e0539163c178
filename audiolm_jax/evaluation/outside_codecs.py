"""Evaluates codecs of other projects, such as Opus, to compare them with the codec of a bundle."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import degradations
from audiolm_jax.evaluation.codec import BITS_PER_SECOND, reconstruction_metrics
from audiolm_jax.evaluation.metric import Metric
from audiolm_jax.io import audio

_OPUS_RATES = (6_000, 9_000, 12_000)
_OPUS_HEADERS = 2  # packets before the first packet with sound
# Bits per second at libsndfile's compression levels 1 and 0; the bit rate is linear in the level.
_OPUS_LOWEST, _OPUS_HIGHEST = 6_000, 256_000


@dataclasses.dataclass(frozen=True)
class OutsideCodec:
  """A codec of another project.

  Attributes:
    name: name of the codec, with the requested bit rate.
    sample_rate: sample rate of input and output in Hz.
    through: function that encodes and decodes a clip. It returns the decoded clip, aligned with the
      clip and of equal length, and the bits per second of the code, without a container.
  """

  name: str
  sample_rate: int
  through: Callable[[Float[np.ndarray, " samples"]], tuple[Float[np.ndarray, " samples"], float]]


def evaluate_outside(
  codec: OutsideCodec,
  clips: Sequence[Float[np.ndarray, "_"]],
  sample_rate: int,
  *,
  speech: bool,
  on_decoded: Callable[[Float[np.ndarray, " samples"]], None] | None = None,
) -> list[dict[Metric, float]]:
  """Encodes and decodes each clip, and compares the result with the clip.

  Args:
    codec: the codec; clips are resampled to its sample rate and back.
    clips: clips at `sample_rate`, of any lengths.
    sample_rate: sample rate of the clips in Hz.
    speech: whether to add the metrics that are defined for speech only.
    on_decoded: callback that receives each decoded clip at `sample_rate`; None for no callback.

  Returns:
    The metrics of each clip, including `BITS_PER_SECOND`.
  """
  rows = []
  for clip in clips:
    decoded, rate = codec.through(_resample(clip, sample_rate, codec.sample_rate))
    decoded = audio.fit_length(_resample(decoded, codec.sample_rate, sample_rate), len(clip))
    metrics = reconstruction_metrics(clip, decoded, sample_rate, speech=speech)
    rows.append(metrics | {BITS_PER_SECOND: rate})
    if on_decoded is not None:
      on_decoded(decoded)
  return rows


def opus_codecs(sample_rate: int) -> list[OutsideCodec]:
  """Returns Opus at 6, 9 and 12 kbit/s.

  The codecs use the lowest sample rate of Opus that is not below `sample_rate` Hz; above 48 kHz,
  they use 48 kHz. The actual bit rate depends on the sound and differs from the requested bit rate.

  Raises:
    UserError: the installed libsndfile has no Opus.
  """
  if "OPUS" not in soundfile.available_subtypes("OGG"):
    version = soundfile.__libsndfile_version__
    raise UserError(
      f"libsndfile {version} has no Opus; pip install soundfile installs one with Opus"
    )
  own_rate = degradations.codec_rate("opus", sample_rate)

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
  """Returns the size in bytes of each packet of an Ogg file, in the order of the file.

  Source: RFC 3533, sections 5 and 6.
  """
  sizes, size, page = [], 0, 0
  while page < len(stream):
    table = page + 27
    segments = stream[table : table + stream[table - 1]]
    for segment in segments:
      size += segment
      if segment < 255:  # the last segment of its packet
        sizes.append(size)
        size = 0
    page = table + len(segments) + sum(segments)
  return sizes


def _resample(
  waveform: Float[np.ndarray, " samples"], sample_rate: int, new_rate: int
) -> Float[np.ndarray, " resampled"]:
  return waveform if sample_rate == new_rate else soxr.resample(waveform, sample_rate, new_rate)
