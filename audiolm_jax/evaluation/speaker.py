"""A speaker embedding that is independent of the evaluated models.

The embedding is not computed by a neural network. Its features are the long-term spectrum, the
variation of the cepstra and the pitch of a piece of speech. They are projected by linear
discriminant analysis, which is fitted to training speakers. The embedding is weaker than a
pretrained neural embedding, so every result that uses it is reported together with the result for
real speech.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation import signal
from audiolm_jax.evaluation.pitch import pitch_track

SEGMENT_SECONDS = 3.0
_MEL_BINS = 40
_NUM_CEPSTRA = 20
_ACTIVE_DB = -30.0
_DRAWS = 20  # number of random sets of candidates for each clip


@runtime_checkable
class SpeakerEncoder(Protocol):
  """An encoder of speech that returns an embedding of the voice."""

  def embed(
    self, waveform: Float[np.ndarray, " samples"], sample_rate: int
  ) -> Float[np.ndarray, " dim"]:
    """Returns an embedding of the voice, a unit vector; compare two voices by the cosine."""
    ...


@dataclasses.dataclass(frozen=True)
class SpeakerModel:
  """Discriminant projection of centred `voice_features`.

  Attributes:
    mean: mean of the features.
    projection: projection onto the discriminant directions.
  """

  mean: Float[np.ndarray, " features"]
  projection: Float[np.ndarray, "features dim"]

  def embed(
    self, waveform: Float[np.ndarray, " samples"], sample_rate: int
  ) -> Float[np.ndarray, " dim"]:
    """Returns an embedding of the voice, a unit vector; compare two voices by the cosine."""
    vector = (voice_features(waveform, sample_rate) - self.mean) @ self.projection
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def fit_speaker_model(
  clips: Sequence[Float[np.ndarray, "_"]],
  speakers: Sequence[str],
  sample_rate: int,
  *,
  dim: int = 48,
  shrinkage: float = 0.3,
) -> SpeakerModel:
  """Fits the projection to the pieces that `segments` cuts from clips of known speakers.

  Args:
    clips: the clips.
    speakers: speaker of each clip.
    sample_rate: sample rate of the clips in Hz.
    dim: maximum dimension of the embedding; the dimension is also less than the number of speakers.
    shrinkage: weight of the diagonal in the within-speaker covariance, 0 to 1.

  Raises:
    DataError: there are fewer than two speakers, or fewer than two pieces per speaker on average.

  Source: Fisher's discriminant; shrinkage as in Friedman, Regularized discriminant analysis, 1989.
  """
  features, labels = [], []
  for clip, speaker in zip(clips, speakers, strict=True):
    for piece in segments(clip, sample_rate):
      features.append(voice_features(piece, sample_rate))
      labels.append(speaker)
  names = sorted(set(labels))
  if len(names) < 2 or len(labels) < 2 * len(names):
    raise DataError(
      f"{len(names)} speakers with {len(labels)} pieces of {SEGMENT_SECONDS:g} s are given; "
      "at least 2 speakers with 2 pieces each on average are needed"
    )
  table, classes = np.stack(features), np.array(labels)
  mean = table.mean(axis=0)
  means = np.stack([table[classes == name].mean(axis=0) for name in names])
  centred = table - means[np.searchsorted(names, classes)]
  within = centred.T @ centred / max(1, len(table) - len(names))
  diagonal = np.diag(np.diag(within) + 1e-6)
  within = (1 - shrinkage) * within + shrinkage * diagonal
  between = np.cov((means - mean).T)
  # Whiten by the within-speaker covariance, then keep the directions in which speakers differ most.
  values, vectors = np.linalg.eigh(within)
  whitening = vectors / np.sqrt(np.maximum(values, 1e-9))
  _, directions = np.linalg.eigh(whitening.T @ between @ whitening)
  kept = directions[:, ::-1][:, : min(dim, len(names) - 1)]
  return SpeakerModel(mean, whitening @ kept)


def segments(clip: Float[np.ndarray, " samples"], sample_rate: int) -> list[Float[np.ndarray, "_"]]:
  """Returns consecutive pieces of 3 s without the remainder; a shorter clip is one piece."""
  length = round(SEGMENT_SECONDS * sample_rate)
  return [clip[i : i + length] for i in range(0, max(1, len(clip) - length + 1), length)]


def voice_features(
  waveform: Float[np.ndarray, " samples"], sample_rate: int
) -> Float[np.ndarray, " features"]:
  """Returns features of a piece of speech that do not depend on its level.

  The loud frames give the mean mel spectrum in dB minus its mean (40 values). They also give the
  standard deviations of 20 cepstra and of their differences between frames (40 values). All frames
  give the median and the interquartile range of the log pitch, and the share of voiced frames (3
  values).
  """
  window, hop = round(0.032 * sample_rate), round(0.01 * sample_rate)
  mel = signal.mel_decibels(waveform, sample_rate, window, hop, _MEL_BINS)
  level = mel.max(axis=-1)
  active = level > np.quantile(level, 0.95) + _ACTIVE_DB
  mel = np.maximum(mel, mel.max() - 70.0)
  cepstra = mel @ signal.cosine_transform(_MEL_BINS)[:, 1 : _NUM_CEPSTRA + 1]
  steps = np.diff(cepstra, axis=0, prepend=cepstra[:1])
  spectrum = mel[active].mean(axis=0)
  pitch = pitch_track(waveform, sample_rate)
  voiced = pitch[np.isfinite(pitch)]
  quartiles = np.log2(np.quantile(voiced, (0.25, 0.5, 0.75))) if len(voiced) > 5 else np.zeros(3)
  prosody = [quartiles[1], quartiles[2] - quartiles[0], len(voiced) / len(pitch)]
  parts = [
    spectrum - spectrum.mean(),
    cepstra[active].std(axis=0),
    steps[active].std(axis=0),
    np.array(prosody) * 10,
  ]
  return np.concatenate(parts).astype(np.float64)


def identify(
  embedding: Float[np.ndarray, " dim"], candidates: Float[np.ndarray, "speakers dim"]
) -> int:
  """Returns the index of the candidate with the highest cosine."""
  return int(np.argmax(candidates @ embedding))


def found_among_candidates(
  embeddings: Sequence[Float[np.ndarray, " dim"]],
  enrolled: Float[np.ndarray, "clips dim"],
  speakers: Sequence[str],
  num_candidates: int,
  rng: np.random.Generator,
) -> list[float]:
  """Identifies the speaker of each clip among the true speaker and random other speakers.

  Args:
    embeddings: voices to identify, one for each clip.
    enrolled: voices of the candidates, one for each clip.
    speakers: speaker of each clip.
    num_candidates: number of candidates, including the true speaker; at most all speakers.
    rng: random number generator that draws the other candidates, 20 times for each clip.

  Returns:
    For each clip, the share of the draws in which the true speaker was the nearest candidate.
  """
  names = np.array(speakers)
  shares = []
  for index, embedding in enumerate(embeddings):
    others = [s for s in sorted(set(speakers)) if s != speakers[index]]
    hits = 0
    for _ in range(_DRAWS):
      chosen = rng.choice(others, num_candidates - 1, replace=False)
      rows = [index, *(int(rng.choice(np.flatnonzero(names == s))) for s in chosen)]
      hits += identify(embedding, enrolled[rows]) == 0
    shares.append(hits / _DRAWS)
  return shares
