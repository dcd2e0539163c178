"""Selects and reads the clips that are evaluated."""

import dataclasses
import os
import random
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import AudioError, DataError
from audiolm_jax.data.manifest import AudioClip, clips_of_split, list_clips, read_clip
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.transcripts import read_field
from audiolm_jax.io import audio


@dataclasses.dataclass(frozen=True)
class EvalClip:
  """A clip to evaluate, or a piece of a clip.

  Attributes:
    id: id of the clip. If a piece begins after the start of its clip, the id has the suffix `@` and
      the start in seconds.
    waveform: the samples.
    speaker: name of the speaker; None if unknown.
    sentence: field `sentence` of the clip in the manifest; None if the field is missing.
    source: field `source` of the clip in the manifest; None if the field is missing.
    text: transcript of the clip; None if unknown or if the clip was cut.
  """

  id: str
  waveform: Float[np.ndarray, " samples"]
  speaker: str | None = None
  sentence: str | None = None
  source: str | None = None
  text: str | None = None


def load_pieces(
  source: str | os.PathLike[str],
  split: str,
  sample_rate: int,
  *,
  max_clips: int | None = None,
  piece_seconds: float | None = None,
  least_seconds: float = 1.0,
  without_speakers: Collection[str] = (),
  ids: Collection[str] | None = None,
  texts: Mapping[str, str] | None = None,
  seed: int = 0,
) -> list[EvalClip]:
  """Reads pieces of clips from one split, distributed evenly over clips and speakers.

  Args:
    source: folder or manifest.
    split: name of the split.
    sample_rate: sample rate of the pieces in Hz.
    max_clips: maximum number of pieces; None for all pieces.
    piece_seconds: maximum length of a piece in seconds; longer clips are cut. None for whole clips.
    least_seconds: minimum length of a piece in seconds.
    without_speakers: speakers whose clips are excluded.
    ids: ids of the clips to choose from; None for all clips.
    texts: transcripts by the id of the clip.
    seed: seed for the random order of the clips.

  Raises:
    DataError: the source cannot be read, or the split has no clips.
    AudioError: a file cannot be read.
  """
  chosen = clips_of_split(list_clips(source), split)
  chosen = [clip for clip in chosen if clip.speaker not in without_speakers]
  chosen = [clip for clip in chosen if ids is None or clip.id in ids]
  random.Random(seed).shuffle(chosen)
  chosen = _spread(chosen, [clip.speaker or clip.id for clip in chosen])
  sentences, sources = (read_field(source, field) for field in ("sentence", "source"))
  # Each round has one piece of each clip: first all first pieces, then all second pieces.
  rounds: list[list[EvalClip]] = []
  for clip in chosen:
    if max_clips is not None and rounds and len(rounds[0]) >= max_clips:
      break
    if clip.seconds is not None and clip.seconds < least_seconds:
      continue
    pieces = _cut(read_clip(clip, sample_rate), sample_rate, piece_seconds)
    text = (texts or {}).get(clip.id) if len(pieces) == 1 else None
    for index, (start, piece) in enumerate(pieces):
      if len(piece) < least_seconds * sample_rate:
        continue
      name = f"{clip.id}@{start / sample_rate:g}" if start else clip.id
      if index == len(rounds):
        rounds.append([])
      rounds[min(index, len(rounds) - 1)].append(
        EvalClip(name, piece, clip.speaker, sentences.get(clip.id), sources.get(clip.id), text)
      )
  return [piece for group in rounds for piece in group][:max_clips]


def valid_clips(
  options: Options,
  ids: Collection[str],
  texts: Mapping[str, str],
  sample_rate: int,
  least_seconds: float,
) -> list[EvalClip]:
  """Reads at most `max_continuations` whole clips of the split `valid`, by `load_pieces`.

  Args:
    options: settings of the evaluation.
    ids: ids of the clips to choose from.
    texts: transcripts by the id of the clip.
    sample_rate: sample rate of the clips in Hz.
    least_seconds: minimum length of a clip in seconds.
  """
  return load_pieces(
    options.data,
    "valid",
    sample_rate,
    max_clips=options.max_continuations,
    least_seconds=least_seconds,
    ids=ids,
    texts=texts,
    seed=options.seed,
  )


def new_pieces(
  options: Options,
  sample_rate: int,
  max_clips: int,
  least_seconds: float,
  texts: Mapping[str, str] | None = None,
) -> list[EvalClip]:
  """Reads pieces of the split `valid`, without clips by speakers of `train`.

  If all named speakers of `valid` are also in `train`, all clips of `valid` are used.

  Args:
    options: settings of the evaluation.
    sample_rate: sample rate of the pieces in Hz.
    max_clips: maximum number of pieces.
    least_seconds: minimum length of a piece in seconds.
    texts: transcripts by the id of the clip.

  Raises:
    DataError: the split has no clip that is long enough.
  """
  known = speakers_of(options.source_of("train"), "train")
  if not speakers_of(options.data, "valid") - known:
    known = set()
  pieces = load_pieces(
    options.data,
    "valid",
    sample_rate,
    without_speakers=known,
    max_clips=max_clips,
    piece_seconds=options.piece_seconds,
    least_seconds=least_seconds,
    texts=texts,
    seed=options.seed,
  )
  if not pieces:
    raise DataError(f"{options.data} has no valid clip of {least_seconds:g} s")
  return pieces


def pieces_to_continue(
  options: Options, sample_rate: int, seconds_after_prompt: float
) -> list[EvalClip]:
  """Reads held-out pieces whose beginning, the prompt, is not silent.

  Args:
    options: settings of the evaluation.
    sample_rate: sample rate of the pieces in Hz.
    seconds_after_prompt: minimum length of a piece after its prompt, in seconds.

  Raises:
    DataError: no clip is long enough, or all prompts are silent.
  """
  least = options.prompt_seconds + seconds_after_prompt
  cut = round(options.prompt_seconds * sample_rate)
  kept = []
  for piece in new_pieces(options, sample_rate, options.max_continuations, least):
    try:
      audio.check_not_silent(piece.waveform[:cut], piece.id)
      kept.append(piece)
    except AudioError as error:
      print(f"skipped: {error}")
  if not kept:
    raise DataError(
      f"the first {options.prompt_seconds:g} s of all valid clips of {options.data} are silent"
    )
  return kept


def recording_of(clip: EvalClip) -> str:
  """Returns the id of the recording that a piece was cut from."""
  return re.sub(r"@[0-9.e+]+$", "", clip.id)


def speakers_of(source: str | os.PathLike[str], split: str) -> set[str]:
  """Returns the named speakers of a split."""
  return {c.speaker for c in list_clips(source) if c.split == split and c.speaker is not None}


def _cut(
  waveform: Float[np.ndarray, " samples"], sample_rate: int, seconds: float | None
) -> list[tuple[int, Float[np.ndarray, "_"]]]:
  """Returns pieces of at most `seconds`, each with the index of its first sample.

  None for `seconds` gives one piece.
  """
  if seconds is None:
    return [(0, waveform)]
  length = round(seconds * sample_rate)
  return [(start, waveform[start : start + length]) for start in range(0, len(waveform), length)]


def _spread(clips: Sequence[AudioClip], keys: Sequence[str]) -> list[AudioClip]:
  """Reorders clips: the first clip of each key, then the second clip of each key, and so on.

  Args:
    clips: the clips.
    keys: key of each clip, such as its speaker.
  """
  seen: dict[str, int] = {}
  ranked = []
  for clip, key in zip(clips, keys, strict=True):
    seen[key] = seen.get(key, 0) + 1
    ranked.append((seen[key], len(ranked), clip))
  return [clip for _, _, clip in sorted(ranked, key=lambda entry: entry[:2])]
