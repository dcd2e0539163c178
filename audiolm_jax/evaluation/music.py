"""Statistics of music: pitch classes, key, onsets and notes, and the agreement of two pieces."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.transcription import transcribe

# Krumhansl, Cognitive Foundations of Musical Pitch, 1990, table 2.1: how well a tone fits a key.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
_PROFILES = np.stack([np.roll(p, tonic) for p in (_MAJOR, _MINOR) for tonic in range(12)])
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))
_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

_LEAST_CHROMA_SECONDS = 3.2  # twice the longest filter, because FFT sizes are powers of two
_HOP_SECONDS = 0.01
_ONSET_DB = 0.1
_ONSET_WINDOW = 2048  # samples; the default of librosa
_SMOOTH_SECONDS = 0.05
_SHORTEST_PERIOD_SECONDS, _LONGEST_PERIOD_SECONDS = 0.2, 1.5

CHROMA = Metric("chroma_cosine", "chroma cosine")
SAME_KEY = Metric("same_key", "same key")
KEY_CORRELATION = Metric("key_correlation", "correlation of key scores")
NOTES_IN_KEY = Metric("notes_in_key", "notes in the key")
ONSETS = Metric("onset_density_octaves", "onset density difference", Better.LOWER, unit="octaves")
PULSE = Metric("pulse_clarity_difference", "pulse clarity difference", Better.LOWER)
PITCH = Metric("mean_pitch_semitones", "mean pitch difference", Better.LOWER, unit="semitones")
# The metrics that `agreement` returns.
AGREEMENT = (CHROMA, SAME_KEY, KEY_CORRELATION, NOTES_IN_KEY, ONSETS, PULSE, PITCH)


class Key(NamedTuple):
  """A musical key.

  Attributes:
    tonic: pitch class, from 0 for C to 11 for B.
    minor: whether the key is minor.
  """

  tonic: int
  minor: bool

  def __str__(self) -> str:
    return f"{_NAMES[self.tonic]} {'minor' if self.minor else 'major'}"

  @property
  def scale(self) -> frozenset[int]:
    """The pitch classes of the key's major or natural minor scale."""
    return frozenset((self.tonic + step) % 12 for step in _SCALES[self.minor])


@dataclasses.dataclass(frozen=True)
class MusicStatistics:
  """Statistics of one piece of music.

  Attributes:
    chroma: mean magnitude of the pitch classes, C first; zeros for silence.
    seconds: length of the piece in seconds.
    onsets: number of onsets; a chord has one onset.
    pulse_clarity: regularity of the onsets, see `pulse_clarity`.
    pitches: MIDI numbers of the transcribed notes.
  """

  chroma: Float[np.ndarray, "12"]
  seconds: float
  onsets: int
  pulse_clarity: float
  pitches: Int[np.ndarray, " notes"]

  @property
  def onsets_per_second(self) -> float:
    """The number of onsets per second."""
    return self.onsets / self.seconds

  @property
  def notes_per_onset(self) -> float:
    """The mean number of notes per onset; NaN without onsets."""
    return len(self.pitches) / self.onsets if self.onsets else float("nan")

  @property
  def mean_pitch(self) -> float:
    """The mean MIDI number of the notes; NaN without notes."""
    return float(self.pitches.mean()) if len(self.pitches) else float("nan")

  @property
  def note_range_semitones(self) -> float:
    """The range from the 5th to the 95th percentile of the pitches; NaN without notes."""
    if not len(self.pitches):
      return float("nan")
    low, high = np.quantile(self.pitches, (0.05, 0.95))
    return float(high - low)


def music_statistics(waveform: Float[np.ndarray, " samples"], sample_rate: int) -> MusicStatistics:
  """Returns the statistics of a piece of music that is tuned to A = 440 Hz."""
  return MusicStatistics(
    chroma=mean_chroma(waveform, sample_rate),
    seconds=len(waveform) / sample_rate,
    onsets=len(onset_times(waveform, sample_rate)),
    pulse_clarity=pulse_clarity(waveform, sample_rate),
    pitches=transcribe(waveform, sample_rate).pitches,
  )


def agreement(sound: MusicStatistics, reference: MusicStatistics) -> dict[Metric, float]:
  """Returns the agreement of a sound with a reference, a value for each metric of `AGREEMENT`.

  If the sound or the reference is silent, `CHROMA`, `SAME_KEY` and `KEY_CORRELATION` are 0.
  `NOTES_IN_KEY` is NaN if the sound has no notes or the reference has no key. `PITCH` is NaN if the
  sound or the reference has no notes. A piece without onsets counts as a piece with half an onset,
  so that the ratio of onset densities is finite.
  """
  key = estimate_key(reference.chroma)
  in_key = [int(pitch) % 12 in key.scale for pitch in sound.pitches] if key else []
  density, reference_density = (max(s.onsets, 0.5) / s.seconds for s in (sound, reference))
  return {
    CHROMA: _cosine(sound.chroma, reference.chroma),
    SAME_KEY: float(key is not None and estimate_key(sound.chroma) == key),
    KEY_CORRELATION: _cosine(*(_centred_scores(s) for s in (sound, reference))),
    NOTES_IN_KEY: float(np.mean(in_key)) if in_key else float("nan"),
    ONSETS: float(abs(np.log2(density / reference_density))),
    PULSE: abs(sound.pulse_clarity - reference.pulse_clarity),
    PITCH: abs(sound.mean_pitch - reference.mean_pitch),
  }


def mean_chroma(
  waveform: Float[np.ndarray, " samples"], sample_rate: int
) -> Float[np.ndarray, "12"]:
  """Returns the mean magnitude of the pitch classes, C first, for a tuning of A = 440 Hz.

  Source: package librosa, chroma of the constant-Q transform.
  """
  import librosa

  missing = round(_LEAST_CHROMA_SECONDS * sample_rate) - len(waveform)
  padded = np.pad(waveform, (0, max(0, missing)))
  chroma = librosa.feature.chroma_cqt(y=padded, sr=sample_rate, norm=None, tuning=0.0)
  return chroma.mean(axis=1, dtype=np.float64)


def key_scores(chroma: Float[np.ndarray, "12"]) -> Float[np.ndarray, "24"]:
  """Returns the scores of the keys C to B major, then of C to B minor, from -1 to 1.

  All scores are 0 if the pitch classes have equal magnitudes.

  Source:
    Krumhansl, Cognitive Foundations of Musical Pitch, 1990, chapter 4: the correlation with the
    profile of each key.
  """
  centred = chroma - chroma.mean()
  size = np.linalg.norm(centred)
  if size <= 1e-9 * max(1.0, float(np.abs(chroma).max())):
    return np.zeros(24)
  profiles = _PROFILES - _PROFILES.mean(axis=1, keepdims=True)
  return profiles @ centred / (np.linalg.norm(profiles, axis=1) * size)


def estimate_key(chroma: Float[np.ndarray, "12"]) -> Key | None:
  """Returns the key with the highest score; None for equal pitch classes, as in silence."""
  scores = key_scores(chroma)
  if not scores.any():
    return None
  best = int(scores.argmax())
  return Key(best % 12, best >= 12)


def onset_times(
  waveform: Float[np.ndarray, " samples"], sample_rate: int
) -> Float[np.ndarray, " onsets"]:
  """Returns the times at which notes or chords begin, in seconds.

  An onset is a peak of `onset_envelope`, at least 0.1 dB above its surroundings. This
  threshold does not depend on the rest of the clip. Noise with a varying level has onsets too.

  Source: package librosa, peaks of the spectral flux.
  """
  import librosa

  hop = round(_HOP_SECONDS * sample_rate)
  return librosa.onset.onset_detect(
    onset_envelope=onset_envelope(waveform, sample_rate),
    sr=sample_rate,
    hop_length=hop,
    units="time",
    normalize=False,
    delta=_ONSET_DB,
  )


def onset_envelope(
  waveform: Float[np.ndarray, " samples"], sample_rate: int
) -> Float[np.ndarray, " frames"]:
  """Returns the mean rise of the mel bands in dB, every 10 ms."""
  import librosa

  return librosa.onset.onset_strength(
    y=np.pad(waveform, (0, max(0, _ONSET_WINDOW - len(waveform)))),
    sr=sample_rate,
    hop_length=round(_HOP_SECONDS * sample_rate),
  )


def pulse_clarity(waveform: Float[np.ndarray, " samples"], sample_rate: int) -> float:
  """Returns the regularity of onsets: 1 for a metronome, near 0 for random onsets, 0 for silence.

  The result is the maximum autocorrelation of `onset_envelope`. The lags are 0.2 to 1.5 s, and at
  most half of the clip. The result is 0 for clips shorter than about 0.4 s. Other short clips have
  higher values by chance.

  Source:
    Lartillot, Eerola, Toiviainen and Fornari, Multi-feature modeling of pulse clarity, 2008, the
    maximum of the autocorrelation.
  """
  window = np.hanning(round(_SMOOTH_SECONDS / _HOP_SECONDS) + 2)[1:-1]
  envelope = np.convolve(onset_envelope(waveform, sample_rate), window, mode="same")
  envelope = envelope - envelope.mean()
  energy = float(envelope @ envelope)
  first = round(_SHORTEST_PERIOD_SECONDS / _HOP_SECONDS)
  last = min(round(_LONGEST_PERIOD_SECONDS / _HOP_SECONDS), len(envelope) // 2)
  if energy <= 1e-9 or last < first:
    return 0.0
  count = len(envelope)
  correlations = [
    float(envelope[lag:] @ envelope[:-lag]) / energy * count / (count - lag)
    for lag in range(first, last + 1)
  ]
  return float(np.clip(max(correlations), 0.0, 1.0))


def _centred_scores(statistics: MusicStatistics) -> Float[np.ndarray, "24"]:
  scores = key_scores(statistics.chroma)
  return scores - scores.mean()


def _cosine(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float:
  """Returns the cosine of the angle between two vectors; 0 if one of the vectors is 0."""
  size = float(np.linalg.norm(one) * np.linalg.norm(other))
  return float(one @ other) / size if size else 0.0
