"""Labels the frames of a corpus with the help of a canonical voice that reads all texts.

The frames of the canonical voice are clustered; the label of a frame is the index of its cluster.
Dynamic time warping aligns each clip of another voice with the clip in which the canonical voice
reads the same text (its canonical reading). Each frame of the clip gets the label of the aligned
frame. The labels therefore depend on the spoken words and only little on the voice. Alignment and
clustering can be repeated in rounds: the first round uses cepstra, and each later round uses the
features of an encoder that was trained on the labels of an earlier round.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.modules import Params
from audiolm_jax.data.frame_labels import FrameLabels
from audiolm_jax.data.manifest import AudioClip, read_clip, source_of
from audiolm_jax.semantic.features import LogMelConfig, log_mel
from audiolm_jax.semantic.kmeans import KMeans, fit_kmeans
from audiolm_jax.semantic.unit_encoder import UnitEncoderConfig, UnitTokenizer

_NUM_CEPSTRA = 13
_CONTEXT = 3  # distance in frames to the two frames that are clustered together with a frame
_BAND = 0.2  # width of the Sakoe-Chiba band around the diagonal, as a share of the length
_PAD_SECONDS = 5  # waveforms are padded to a multiple of this length
_MOST_FRAMES = 400_000  # maximum number of frames that are clustered

Features = Float[np.ndarray, "frames dim"]


@dataclasses.dataclass(frozen=True)
class AlignmentReport:
  """Statistics of the labels.

  Attributes:
    canonical: number of clips of the canonical voice.
    canonical_kept: number of clips of the canonical voice with labels.
    aligned: number of clips of other voices with labels.
    dropped: number of clips of other voices whose alignment failed or had too high a cost.
    unread: number of clips of other voices without a canonical reading of their text.
    costs: 10th, 50th and 90th percentile, over aligned clips, of the mean cost per pair of aligned
      frames.
    hours: hours of audio with labels.
  """

  canonical: int
  canonical_kept: int
  aligned: int
  dropped: int
  unread: int
  costs: tuple[float, float, float]
  hours: float

  def __str__(self) -> str:
    low, median, high = self.costs
    return (
      f"{self.hours:.2f} h with labels: {self.canonical_kept} of {self.canonical} clips of the "
      f"canonical voice, {self.aligned} of other voices; {self.dropped} dropped for their "
      f"alignment, {self.unread} without a canonical reading; "
      f"costs {low:.3f} / {median:.3f} / {high:.3f} (10, 50, 90 %)"
    )


@dataclasses.dataclass(frozen=True)
class FrameFeatures:
  """The features that alignment compares and the features that are clustered.

  Attributes:
    of: function from a waveform to the features [frames, dim] that alignment compares.
    clustered: function from the result of `of` to the features [frames, dim] that are clustered.
    metric: name of the distance between two frames, see `librosa.sequence.dtw`.
    front_end: the log-mel front end; it defines the sample rate and the hop length.
  """

  of: Callable[[Float[np.ndarray, " samples"]], Features]
  clustered: Callable[[Features], Features]
  metric: str
  front_end: LogMelConfig


def cepstral_features(front_end: LogMelConfig) -> FrameFeatures:
  """Returns features without an encoder: normalised mel cepstra and their time derivatives.

  Clustering concatenates the features of a frame, of the frame three frames before it and of the
  frame three frames after it.

  Args:
    front_end: the log-mel front end.
  """

  def of(waveform: Float[np.ndarray, " samples"]) -> Features:
    frames = -(-len(waveform) // front_end.hop_length)
    unit = _PAD_SECONDS * front_end.sample_rate  # few lengths: few compiled programs
    padded = np.pad(waveform, (0, -len(waveform) % unit))
    mel = np.asarray(_log_mel(padded[None], front_end))[0, :frames]
    order, band = np.arange(1, _NUM_CEPSTRA + 1), np.arange(front_end.num_mels)
    basis = np.cos(np.pi / front_end.num_mels * np.outer(band + 0.5, order))
    cepstra = mel @ basis
    cepstra = (cepstra - cepstra.mean(0)) / (cepstra.std(0) + 1e-3)
    # One frame has no derivative.
    slopes = np.gradient(cepstra, axis=0) if len(cepstra) > 1 else np.zeros_like(cepstra)
    return np.concatenate([cepstra, 2 * slopes], axis=1).astype(np.float32)

  def with_context(features: Features) -> Float[np.ndarray, "frames together"]:
    padded = np.pad(features, ((_CONTEXT, _CONTEXT), (0, 0)), mode="edge")
    starts = (0, _CONTEXT, 2 * _CONTEXT)
    return np.concatenate([padded[s : s + len(features)] for s in starts], axis=1)

  return FrameFeatures(of, with_context, "euclidean", front_end)


def encoder_features(encoder: UnitEncoderConfig, params: Params) -> FrameFeatures:
  """Returns features of a trained encoder; alignment and clustering use the same features.

  Args:
    encoder: configuration of the encoder.
    params: parameters of the encoder.
  """
  frames = dataclasses.replace(encoder, frames_per_step=1)
  tokenizer = UnitTokenizer.unclustered(frames, params)
  return FrameFeatures(
    lambda waveform: tokenizer.features(waveform[None])[0], lambda x: x, "cosine", encoder.features
  )


def label_clips(
  clips: Sequence[AudioClip],
  canonical_speaker: str,
  features: FrameFeatures,
  *,
  num_labels: int = 200,
  seed: int = 0,
  kept_share: float = 0.9,
  canonical_share: float = 0.25,
  log: Callable[[str], None] = print,
) -> tuple[FrameLabels, AlignmentReport]:
  """Labels the frames of a corpus.

  Args:
    clips: the clips, with speaker and text.
    canonical_speaker: speaker of the canonical voice. Only its clips of the split `train` are
      clustered.
    features: the features for alignment and clustering.
    num_labels: number of clusters.
    seed: seed of the clustering and of the choice of canonical clips with labels.
    kept_share: share of the aligned clips of other voices that get labels: the clips with the
      lowest costs.
    canonical_share: largest share of the labelled frames that come from the canonical voice. The
      labels of this voice are easy to learn, so a larger share improves an encoder little. With 1,
      all clips of the canonical voice get labels.
    log: receives progress messages of one line.

  Returns:
    The labels of the frames by clip, and statistics of the labels.

  Raises:
    AudioError: a clip cannot be read.
    DataError: there are no clips of the canonical voice, there are fewer frames than clusters, or
      no clip of another voice can be aligned.
  """
  canonical = [clip for clip in clips if clip.speaker == canonical_speaker]
  others = [clip for clip in clips if clip.speaker != canonical_speaker]
  if not canonical:
    speakers = ", ".join(sorted({str(clip.speaker) for clip in clips})[:8])
    raise DataError(f"no clip is of the speaker {canonical_speaker!r}; there are {speakers}")
  rate = features.front_end.sample_rate
  readings = {clip.id: features.of(read_clip(clip, rate)) for clip in canonical}
  log(f"{len(readings)} clips of the canonical voice read")
  fitted = fit_kmeans(
    (features.clustered(readings[clip.id]) for clip in canonical if clip.split == "train"),
    num_labels,
    seed,
    max_frames=_MOST_FRAMES,
  )
  labels = {name: _labels(features.clustered(x), fitted) for name, x in readings.items()}

  reading_of = {_words(clip.text): clip.id for clip in canonical if clip.text}
  candidates: dict[str, tuple[float, Int[np.ndarray, "_"]]] = {}
  unread = 0
  for number, clip in enumerate(others):
    name = reading_of.get(_words(clip.text)) if clip.text else None
    if name is None:
      unread += 1
      continue
    aligned = _align(features.of(read_clip(clip, rate)), readings[name], features.metric)
    if aligned is not None:
      cost, frames = aligned
      candidates[clip.id] = cost, labels[name][frames]
    if (number + 1) % 100 == 0:
      log(f"{number + 1} of {len(others)} clips of other voices aligned")
  if not candidates:
    raise DataError(
      f"{canonical_speaker} reads no text of another speaker; rows of the manifest need a text, "
      "and the canonical voice must speak each text of the others"
    )
  costs = np.array([cost for cost, _ in candidates.values()])
  limit = np.quantile(costs, kept_share)
  kept = {name: found for name, (cost, found) in candidates.items() if cost <= limit}
  chosen = _shortened(labels, sum(len(x) for x in kept.values()), canonical_share, seed)
  result = FrameLabels(chosen | kept, num_labels, features.front_end.hop_length, rate)
  seconds = sum(map(len, result.clips.values())) * result.hop_length / rate
  low, median, high = np.percentile(costs, [10, 50, 90])
  report = AlignmentReport(
    len(canonical),
    len(chosen),
    len(kept),
    len(others) - unread - len(kept),
    unread,
    (float(low), float(median), float(high)),
    seconds / 3600,
  )
  return result, report


def cluster_clips(
  clips: Sequence[AudioClip],
  features: FrameFeatures,
  *,
  num_labels: int = 1024,
  seed: int = 0,
  of_source: bool = False,
  log: Callable[[str], None] = print,
) -> FrameLabels:
  """Labels every frame of a corpus with the cluster of its own features, without any texts.

  The clusters are fitted to a random choice of `train` clips, and all clips get labels.

  Args:
    clips: the clips.
    features: see `FrameFeatures`; features of a trained encoder depend little on the voice.
    num_labels: number of clusters.
    seed: seed of the clustering and of the choice of clips.
    of_source: whether a clip with a source recording gets the labels of this recording, of which it
      is a copy of equal length.
    log: receives lines of progress.

  Raises:
    DataError: the corpus has no `train` clips or fewer frames than clusters; with `of_source`, a
      clip and its source recording have different lengths.

  Source: Hsu et al., HuBERT (arXiv 2106.07447), section II-B, for labels from an earlier encoder.
  """
  rate, hop = features.front_end.sample_rate, features.front_end.hop_length
  train = [clip for clip in clips if clip.split == "train"]
  if not train:
    raise DataError("the corpus has no clips of the split 'train', whose frames are clustered")

  def original(clip: AudioClip) -> AudioClip:
    """Returns the clip whose frames give the labels of `clip`."""
    source = source_of(clip) if of_source else None
    if source is None:
      return clip
    length, given = (len(read_clip(x, rate)) for x in (source, clip))
    if length != given:
      raise DataError(
        f"{clip.id} has {given} samples and its source recording {length}; give a corpus of copies "
        "that are as long as their sources"
      )
    return source

  def of(clip: AudioClip) -> Features:
    return features.clustered(features.of(read_clip(clip, rate)))

  def chosen() -> Iterator[Features]:
    missing = _MOST_FRAMES
    for index in np.random.default_rng(seed).permutation(len(train)):
      found = of(original(train[index]))
      yield found
      missing -= len(found)
      if missing <= 0:
        return

  fitted = fit_kmeans(chosen(), num_labels, seed, max_frames=_MOST_FRAMES)
  log(f"clustered: {str(fitted.report).splitlines()[0]}")
  labels: dict[str, Int[np.ndarray, "_"]] = {}
  by_path: dict[str, Int[np.ndarray, "_"]] = {}  # a recording and its copies are encoded once
  for number, clip in enumerate(clips):
    recording = original(clip)
    if recording.path not in by_path:
      by_path[recording.path] = _labels(of(recording), fitted)
    labels[clip.id] = by_path[recording.path]
    if (number + 1) % 500 == 0:
      log(f"{number + 1} of {len(clips)} clips labelled")
  return FrameLabels(labels, num_labels, hop, rate)


_log_mel = jax.jit(log_mel, static_argnums=1)


def _labels(features: Features, fitted: KMeans) -> Int[np.ndarray, " frames"]:
  """Returns the index of the nearest centroid for each frame."""
  x, c = (features - fitted.mean) / fitted.scale, fitted.centroids
  return np.argmin((c * c).sum(1) - 2 * x @ c.T, axis=1)


def _shortened(
  labels: dict[str, Int[np.ndarray, "_"]], other_frames: int, share: float, seed: int
) -> dict[str, Int[np.ndarray, "_"]]:
  """Returns the labels of randomly chosen clips of the canonical voice.

  Args:
    labels: labels of the clips of the canonical voice, by clip.
    other_frames: number of labelled frames of other voices.
    share: largest share of the chosen frames in all labelled frames; 1 to choose all clips.
    seed: seed of the choice.
  """
  if share >= 1:
    return labels
  names = np.random.default_rng(seed).permutation(list(labels))
  ends = np.cumsum([len(labels[name]) for name in names])
  return {str(name): labels[name] for name in names[ends <= other_frames * share / (1 - share)]}


def _words(text: str) -> str:
  """Returns the words of a text in lower case and without punctuation, to compare two texts."""
  kept = "".join(char if char.isalnum() else " " for char in text.casefold())
  return " ".join(kept.split())


def _align(
  features: Features, reading: Float[np.ndarray, "others dim"], metric: str
) -> tuple[float, Int[np.ndarray, " frames"]] | None:
  """Aligns the frames of a clip with the frames of its canonical reading.

  Args:
    features: features of the clip.
    reading: features of the canonical reading.
    metric: see `FrameFeatures`.

  Returns:
    The mean cost per pair of aligned frames, and for each frame the index of the aligned frame of
    the reading; None if no alignment is within the band of width `_BAND` around
    the diagonal.
  """
  import librosa

  try:
    total, path = librosa.sequence.dtw(
      features.T, reading.T, metric=metric, global_constraints=True, band_rad=_BAND
    )
  except librosa.util.exceptions.ParameterError:
    return None
  cost = float(total[-1, -1]) / len(path)
  if not np.isfinite(cost):
    return None
  frames = np.zeros(len(features), np.int64)
  frames[path[::-1, 0]] = path[::-1, 1]
  return cost, frames
