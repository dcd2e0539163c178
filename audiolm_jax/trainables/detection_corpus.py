"""Makes the training data of a detector: recordings, and continuations sampled by a bundle.

The recordings are encoded and decoded by the bundle's codec. Both classes, real and synthetic,
therefore contain the artefacts of the codec, and the detector must learn the properties of the
sampled tokens.

Source: AudioLM, detection of synthesized speech.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tqdm
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.bundles.settings import Mode, PromptAudio
from audiolm_jax.core import plain_json
from audiolm_jax.core.errors import AudioError, DataError
from audiolm_jax.data import manifest
from audiolm_jax.data.manifest import AudioClip
from audiolm_jax.io import audio, files, storage
from audiolm_jax.io.provenance import Provenance

LABELS = ("real", "synthetic")
_LEAST_SECONDS = 1.0  # minimum length of a piece after the prompt


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
  """How a corpus is made from recordings.

  Attributes:
    prompt_seconds: length of the prompts; prompts are not part of the clips in the corpus.
    duration: length of the longest continuation in seconds. Sampled continuations are as long as
      the real continuation.
    samples_per_prompt: number of sampled continuations per prompt. 2 balances the classes, because
      the real class contains each continuation twice: decoded by the codec and unchanged.
    valid_share: share of the speakers in the split `train`; their recordings become the split
      `valid`.
    max_pieces: largest number of pieces of recordings in each split; None for all pieces.
    batch_size: number of prompts that are continued together.
    seed: seed of the choice of pieces and of sampling.
    watermark: strength of the watermark in the continuations, see `Settings`. The default is "off",
      so that a detector does not learn to detect the watermark.
  """

  prompt_seconds: float = 3.0
  duration: float = 7.0
  samples_per_prompt: int = 2
  valid_share: float = 0.1
  max_pieces: int | None = None
  batch_size: int = 8
  seed: int = 0
  watermark: float | str | None = "off"


class Pair(NamedTuple):
  """A prompt, and its real and sampled continuations of equal length.

  Attributes:
    prompt: the prompt, encoded and decoded by the codec.
    codec: the real continuation, encoded and decoded by the codec.
    original: the real continuation, unchanged.
    continuations: the continuations that the stages sampled.
  """

  prompt: Float[np.ndarray, "prompt"]
  codec: Float[np.ndarray, "samples"]
  original: Float[np.ndarray, "samples"]
  continuations: Float[np.ndarray, "count samples"]


class _Piece(NamedTuple):
  """A piece of a recording: a prompt and its real continuation.

  Attributes:
    name: name of the files of the piece, without suffix.
    clip: the recording.
    split: split of the piece in the corpus.
    waveform: the samples of prompt and continuation.
  """

  name: str
  clip: AudioClip
  split: str
  waveform: Float[np.ndarray, "samples"]


def make_corpus(
  bundle: Bundle,
  source: str | os.PathLike[str],
  output_dir: str | os.PathLike[str],
  config: CorpusConfig = CorpusConfig(),
  *,
  progress: bool = True,
) -> dict[str, int]:
  """Writes the clips of a corpus and its manifest; a repeated call resumes a killed call.

  The rows of the manifest have `path`, `label` (real or synthetic), `kind` (codec, original or
  continuation), `sample` (index of the continuation, or null), `split`, `speaker`, `seconds` and
  `source` (id of the recording). The split `train` of the recordings is divided by speaker into
  `train` and `valid`. The split `valid` of the recordings, without the speakers of `train`, becomes
  `test`. A clip without a speaker counts as a separate speaker.

  Args:
    bundle: the bundle whose samples are to be detected.
    source: folder or manifest of recordings, see `manifest.list_clips`.
    output_dir: folder of the corpus.
    config: settings of the corpus.
    progress: whether to show a progress bar.

  Returns:
    Number of clips by split and kind, such as {"train codec": 200}.

  Raises:
    AudioError: a recording cannot be read.
    DataError: no recording is long enough and has a prompt that is not silent, or the folder cannot
      be used or contains a corpus with different settings or recordings.
    UserError: the manifest of the corpus would replace the manifest of the recordings, or a file
      cannot be written.
  """
  folder = Path(output_dir)
  if folder.is_dir():
    files.check_writable(folder / "manifest.jsonl", [source])
  found = [clip for clip in manifest.list_clips(source) if not _is_in(folder, clip)]
  _check_settings(folder, bundle, config, found)
  clips = _with_splits(found, config.valid_share)
  rows = []
  bar = tqdm.tqdm(total=len(clips), unit="clip", disable=not progress, mininterval=1.0)
  with bar:
    pieces = _pieces(clips, bundle.sample_rate, config, bar)
    for number, batch in enumerate(_batches(pieces, config.batch_size)):
      rows += _write_batch(bundle, folder, batch, number, config)
  if not rows:
    least = config.prompt_seconds + _LEAST_SECONDS
    raise DataError(f"{source} has no recording of {least:g} s or more; add longer recordings")
  with files.atomic_write(folder / "manifest.jsonl") as file:
    file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
  counts: dict[str, int] = {}
  for row in rows:
    key = f"{row['split']} {row['kind']}"
    counts[key] = counts.get(key, 0) + 1
  return counts


def make_pairs(
  bundle: Bundle,
  recordings: Sequence[Float[np.ndarray, "_"]],
  config: CorpusConfig,
  seed: int,
) -> list[Pair]:
  """Samples continuations of the beginnings of recordings.

  Args:
    bundle: the bundle that samples.
    recordings: waveforms at the sample rate of the bundle, longer than the prompt. Samples after
      prompt and `config.duration` are not used.
    config: lengths of prompt and continuation, number of samples per prompt and batch size.
    seed: seed of sampling. The seed of a batch is `seed` plus the index of its first recording.

  Returns:
    For each recording, the prompt with the real and the sampled continuations.
  """
  pairs = []
  for first in range(0, len(recordings), config.batch_size):
    batch = recordings[first : first + config.batch_size]
    pairs += _pairs_of_batch(bundle, batch, config, seed + first)
  return pairs


def _pairs_of_batch(
  bundle: Bundle,
  recordings: Sequence[Float[np.ndarray, "_"]],
  config: CorpusConfig,
  seed: int,
) -> list[Pair]:
  rate = bundle.sample_rate
  prompt, whole = (
    round(seconds * rate)
    for seconds in (config.prompt_seconds, config.prompt_seconds + config.duration)
  )
  made = bundle.continue_audio(
    [waveform[:prompt] for waveform in recordings],
    rate,
    num_samples=config.samples_per_prompt,
    duration=config.duration,
    prompt_seconds=None,
    prompt_audio=PromptAudio.NONE,
    seed=seed,
    watermark=config.watermark,
  )
  pairs = []
  for waveform, result in zip(recordings, made, strict=True):
    waveform = waveform[:whole]
    decoded = bundle.codec.decode(bundle.codec.encode_long(waveform)[None])[0]
    decoded = np.clip(decoded[: len(waveform)], -1.0, 1.0)
    continuations = result.waveform.reshape(config.samples_per_prompt, -1)
    pairs.append(
      Pair(
        decoded[:prompt],
        decoded[prompt:],
        waveform[prompt:],
        continuations[:, : len(waveform) - prompt],
      )
    )
  return pairs


def _is_in(folder: Path, clip: AudioClip) -> bool:
  """Returns whether a clip is in the folder of the corpus, because an earlier call wrote it."""
  if storage.is_url(clip.path):
    return False
  return Path(clip.path).absolute().is_relative_to(folder.absolute())


def _check_settings(
  folder: Path, bundle: Bundle, config: CorpusConfig, clips: Sequence[AudioClip]
) -> None:
  """Writes the settings of a corpus to its folder, unless the folder has different settings.

  Raises:
    DataError: the folder cannot be used, or contains a corpus with different settings.
  """
  settings = dataclasses.asdict(config) | {
    "bundle": bundle.name,
    "token_hash": bundle.token_hash,
    "recordings": [manifest.hash_of(clip.id for clip in clips), manifest.content_hash(clips)],
  }
  path = folder / "corpus.json"
  try:
    folder.mkdir(parents=True, exist_ok=True)
    before = plain_json.parse(path.read_bytes()) if path.exists() else settings
    if not isinstance(before, dict):
      raise ValueError("its corpus.json is no JSON object")
    # Earlier versions did not record the recordings and had no watermark.
    before = {"recordings": settings["recordings"], "watermark": "off"} | before
  except (OSError, ValueError) as error:
    raise DataError(f"cannot use {folder}: {error}; choose another folder") from error
  if before != settings:
    other = ", ".join(sorted(key for key in settings if before.get(key) != settings[key]))
    raise DataError(
      f"{folder} contains a corpus with other settings ({other}); choose another folder"
    )
  with files.atomic_write(path) as file:
    file.write((json.dumps(settings, indent=2) + "\n").encode())


def _with_splits(clips: Iterable[AudioClip], valid_share: float) -> list[AudioClip]:
  clips = list(clips)
  known = {clip.speaker for clip in clips if clip.split == "train" and clip.speaker is not None}
  kept = []
  for clip in clips:
    if clip.split == "train":
      held_out = manifest.unit_hash(clip.speaker or clip.id) < valid_share
      kept.append(dataclasses.replace(clip, split="valid" if held_out else "train"))
    elif clip.split == "valid" and clip.speaker not in known:
      kept.append(dataclasses.replace(clip, split="test"))
  return kept


def _pieces(
  clips: list[AudioClip], sample_rate: int, config: CorpusConfig, bar: tqdm.tqdm
) -> Iterator[_Piece]:
  """Yields pieces whose prompts are not silent, in a random order of clips.

  Args:
    clips: the recordings.
    sample_rate: sample rate of the pieces in Hz.
    config: settings of the corpus.
    bar: progress bar that counts the recordings.

  Raises:
    AudioError: a recording cannot be read.
  """
  length = round((config.prompt_seconds + config.duration) * sample_rate)
  prompt = round(config.prompt_seconds * sample_rate)
  least = prompt + round(_LEAST_SECONDS * sample_rate)
  order = np.random.default_rng(config.seed).permutation(len(clips))
  taken: dict[str, int] = {}
  for index in order:
    clip = clips[index]
    bar.update()
    if taken.get(clip.split, 0) == config.max_pieces:
      continue
    waveform = manifest.read_clip(clip, sample_rate)
    for start in range(0, len(waveform) - least + 1, length):
      piece = waveform[start : start + length]
      try:
        audio.check_not_silent(piece[:prompt], clip.id)
      except AudioError:
        continue
      if taken.get(clip.split, 0) == config.max_pieces:
        break
      taken[clip.split] = taken.get(clip.split, 0) + 1
      yield _Piece(f"{index:06d}_{start // length:03d}", clip, clip.split, piece)


def _batches(pieces: Iterator[_Piece], size: int) -> Iterator[list[_Piece]]:
  while batch := list(itertools.islice(pieces, size)):
    yield batch


def _write_batch(
  bundle: Bundle, folder: Path, batch: list[_Piece], number: int, config: CorpusConfig
) -> list[dict[str, object]]:
  """Writes the clips of a batch of pieces, unless all files exist, and returns the manifest rows.

  Args:
    bundle: the bundle that samples.
    folder: folder of the corpus.
    batch: the pieces.
    number: index of the batch, which is added to the seed.
    config: settings of the corpus.
  """
  rate = bundle.sample_rate
  prompt = round(config.prompt_seconds * rate)
  seed = (config.seed + number) % 2**32
  rows = [row for piece in batch for row in _rows(piece, rate, prompt, config)]
  if all((folder / str(row["path"])).exists() for row in rows):
    return rows
  for kind in ("codec", "original", "continuation"):
    (folder / kind).mkdir(exist_ok=True)
  pairs = make_pairs(bundle, [piece.waveform for piece in batch], config, seed)
  sounds = [s for pair in pairs for s in (pair.codec, pair.original, *pair.continuations)]
  for row, waveform in zip(rows, sounds, strict=True):
    sample = row["sample"]
    tags = None if sample is None else _tags(bundle, seed, sample)
    audio.write_audio(folder / str(row["path"]), waveform, rate, tags)
  return rows


def _rows(piece: _Piece, rate: int, prompt: int, config: CorpusConfig) -> list[dict[str, object]]:
  """Returns the manifest rows of a piece: codec, original, and the sampled continuations.

  Args:
    piece: the piece.
    rate: sample rate in Hz.
    prompt: length of the prompt in samples.
    config: settings of the corpus.
  """
  common = {
    "split": piece.split,
    "speaker": piece.clip.speaker,
    "seconds": (len(piece.waveform) - prompt) / rate,
    "source": piece.clip.id,
  }
  kinds = [("codec", None), ("original", None)]
  kinds += [("continuation", sample) for sample in range(config.samples_per_prompt)]
  rows = []
  for kind, sample in kinds:
    name = piece.name if sample is None else f"{piece.name}_{sample}"
    label = LABELS[sample is not None]
    row = {"path": f"{kind}/{name}.flac", "label": label, "kind": kind, "sample": sample}
    rows.append(row | common)
  return rows


def _tags(bundle: Bundle, seed: int, sample: object) -> dict[str, str]:
  return Provenance(
    bundle=bundle.name,
    token_hash=bundle.token_hash,
    mode=Mode.CONTINUATION.value,
    seed=seed,
    sample=int(str(sample)),
    prompt_seconds=0.0,
    prompt_audio=PromptAudio.NONE.value,
  ).tags()
