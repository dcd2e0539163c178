"""Measures how much semantic tokens explain of the harmony, rhythm and pitch in music.

A step is the duration of one token. A feature of a step, such as its chroma, is predicted by the
mean of the feature over all steps with the same token. The result is the share of the variance that
this prediction explains; it is about 0 for tokens that do not depend on the feature. The means are
computed on other recordings, so that a large vocabulary has no advantage over a small vocabulary.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate, undefined

# The piano has 88 keys from A0.
_LOWEST_HERTZ, _KEYS = 27.5, 88
_HOP = 128  # samples; a power of two, as the constant-Q transform of eight octaves needs
_SILENCE = 1e-3  # relative to the loudest step
_LEAST_SECONDS = 3.2  # twice the length of the longest filters


@dataclasses.dataclass(frozen=True)
class MusicFrames:
  """Features of one piece of music, with a row for each step; a step is the duration of one token.

  Attributes:
    constant_q: natural logarithm of the constant-Q magnitude at each of the 88 piano keys.
    chroma: magnitudes of the pitch classes, C first, with norm 1.
    onset: onset strength.
    height: pitch height, the magnitude-weighted mean of the keys in semitones above A0.
    sounding: True for steps that are not silent; the features of silent steps are meaningless.
  """

  constant_q: Float[np.ndarray, "steps 88"]
  chroma: Float[np.ndarray, "steps 12"]
  onset: Float[np.ndarray, "steps 1"]
  height: Float[np.ndarray, "steps 1"]
  sounding: Bool[np.ndarray, " steps"]

  def of(self, steps: Bool[np.ndarray, " steps"] | slice) -> "MusicFrames":
    """Returns the features of the selected steps."""
    return MusicFrames(*(getattr(self, f.name)[steps] for f in dataclasses.fields(self)))


def music_frames(
  waveform: Float[np.ndarray, " samples"], sample_rate: int, step: int
) -> MusicFrames:
  """Returns the features of each step of a waveform.

  Args:
    waveform: the samples.
    sample_rate: sample rate in Hz.
    step: samples per step; at least 128, the hop of the constant-Q transform.

  Source: package librosa, constant-Q transform and onset strength.
  """
  import librosa

  steps = -(-len(waveform) // step)
  missing = max(round(_LEAST_SECONDS * sample_rate) - len(waveform), 0)
  padded = np.pad(waveform, (0, missing))
  keys = np.abs(
    librosa.cqt(
      padded, sr=sample_rate, hop_length=_HOP, fmin=_LOWEST_HERTZ, n_bins=_KEYS, tuning=0.0
    )
  )
  onset = librosa.onset.onset_strength(y=padded, sr=sample_rate, hop_length=_HOP)
  keys, onset = (_means(x, steps, step) for x in (keys.T, onset[:, None]))
  total = keys.sum(axis=1)
  loudest = max(float(total.max()), 1e-9)
  chroma = np.zeros((steps, 12))
  for key in range(_KEYS):
    chroma[:, (key + 9) % 12] += keys[:, key]  # key 0 is an A
  norm = np.linalg.norm(chroma, axis=1, keepdims=True)
  return MusicFrames(
    constant_q=np.log(keys + 1e-3 * loudest),
    chroma=chroma / np.maximum(norm, 1e-9 * loudest),
    onset=onset,
    height=(keys @ np.arange(_KEYS) / np.maximum(total, 1e-9 * loudest))[:, None],
    sounding=total > _SILENCE * loudest,
  )


def explained_share(
  tokens: Sequence[Int[np.ndarray, "_"]],
  features: Sequence[Float[np.ndarray, "_ dim"]],
  folds: Int[np.ndarray, " pieces"],
) -> Estimate:
  """Returns the share of a feature's variance that the tokens explain.

  Args:
    tokens: tokens of each piece.
    features: for each piece, the values of the feature at the steps.
    folds: index of the fold of each piece; two or more folds are needed. The feature at a step is
      predicted by its mean over the steps with the same token in other folds. If the other folds
      lack the token, the mean over all of their steps is used.

  Returns:
    The share: 1 for a perfect prediction, 0 for a prediction as good as the mean of the fold, below
    0 for a worse prediction. NaN if the variance is 0.
  """
  residual, total = np.zeros(len(tokens)), np.zeros(len(tokens))
  size = 1 + max(int(of_piece.max(initial=0)) for of_piece in tokens)
  for fold in np.unique(folds):
    others, scored = (np.flatnonzero(is_in).tolist() for is_in in (folds != fold, folds == fold))
    known_tokens = np.concatenate([tokens[i] for i in others])
    known = np.concatenate([features[i] for i in others])
    means = _token_means(known_tokens, known, size)
    middle = np.concatenate([features[i] for i in scored]).mean(axis=0)
    for i in scored:
      residual[i] = np.square(features[i] - means[tokens[i]]).sum()
      total[i] = np.square(features[i] - middle).sum()

  if not total.any():
    return undefined(len(tokens))

  def share(rows: Int[np.ndarray, " n"]) -> float:
    variance = total[rows].sum()
    return float(1 - residual[rows].sum() / variance) if variance else float("nan")

  return bootstrap_estimate(share, len(tokens), reflected=False)


def _token_means(
  tokens: Int[np.ndarray, " steps"], features: Float[np.ndarray, "steps dim"], size: int
) -> Float[np.ndarray, "size dim"]:
  """Returns the mean feature of each token; for a token without steps, the mean of all steps."""
  counts = np.bincount(tokens, minlength=size)[:, None]
  sums = np.zeros((size, features.shape[1]))
  np.add.at(sums, tokens, features)
  return np.where(counts, sums / np.maximum(counts, 1), features.mean(axis=0))


def _means(
  values: Float[np.ndarray, "frames dim"], steps: int, step: int
) -> Float[np.ndarray, "steps dim"]:
  """Returns, for each step, the mean of the frames whose centres are in the step."""
  starts = -(-np.arange(steps) * step // _HOP)
  ends = np.minimum(-(-np.arange(1, steps + 1) * step // _HOP), len(values))
  starts = np.minimum(starts, ends - 1)
  sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
  return (sums[ends] - sums[starts]) / (ends - starts)[:, None]
