"""Exports sounds for VERSA and Codec-SUPERB, with lists of files and configurations.

Source: the documentation of VERSA (`soundfile` lists, configurations) and of Codec-SUPERB
(resynthesized files in the same structure as the recordings).
"""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import AudioError, DataError, UserError
from audiolm_jax.data.manifest import clips_of_split, list_clips
from audiolm_jax.evaluation import generation
from audiolm_jax.evaluation.exports.files import make_folder, names_of, write_lines, write_list
from audiolm_jax.io import audio, storage

# Entries of VERSA's configurations.
_PAIRED = ("- name: pesq", "- name: stoi", "- name: signal_metric")
_QUALITY = (
  "- name: pseudo_mos",
  "  predictor_types: [utmos, dnsmos]",
  "  predictor_args: {utmos: {fs: 16000}, dnsmos: {fs: 16000}}",
)
_VOICE = ("- name: speaker", "  model_tag: default")
_WORDS = (
  *("- name: whisper_wer", "  model_tag: default"),
  *("  beam_size: 1", "  text_cleaner: whisper_basic"),
)

# A function of a waveform at the bundle's sample rate, and of the index of the recording.
Render = Callable[[Float[np.ndarray, " samples"], int], Float[np.ndarray, " samples"]]


@dataclasses.dataclass(frozen=True)
class Recording:
  """A recording and its names in an export.

  Attributes:
    path: path of the recording.
    name: path of an exported sound without suffix, relative to a folder such as `continuation`.
    key: `name` with underscores instead of white space; identifies the recording in lists.
    text: the spoken words; None if unknown.
  """

  path: str
  name: str
  key: str
  text: str | None = None


def list_recordings(source: str, split: str | None = None) -> list[Recording]:
  """Lists the recordings of a folder or manifest.

  Args:
    source: folder or manifest.
    split: split of the recordings to list; None for all recordings.

  Raises:
    DataError: there are no recordings, or two recordings have the same name.
    UserError: the recordings are not on this machine; VERSA reads local files only.
  """
  clips = list_clips(source, texts=True)
  clips = clips_of_split(clips, split) if split else clips
  if any(storage.is_url(clip.path) for clip in clips):
    raise UserError(f"{source} is not on this machine; copy it, since other tools read the files")
  names = names_of([clip.id for clip in clips])
  return [
    Recording(os.path.abspath(clip.path), name, key, clip.text)
    for clip, (name, key) in zip(clips, names, strict=True)
  ]


def export_rendered(
  bundle: Bundle, recordings: Sequence[Recording], kind: str, render: Render, output_dir: str
) -> JsonDict:
  """Writes the output of `render` for each recording, at the recording's sample rate and length.

  Args:
    bundle: bundle whose sample rate `render` uses for input and output.
    recordings: the recordings.
    kind: name of the folder with the sounds, and of the files with their list and configuration.
    render: function that receives a recording's waveform and index, and returns the sound to write.
    output_dir: an existing folder.

  Returns:
    The number of recordings, and the number of recordings with a text.
  """
  made: dict[str, str] = {}
  for index, recording in enumerate(recordings):
    waveform, rate = audio.read_audio(recording.path)
    rendered = render(audio.resample(waveform, rate, bundle.sample_rate), index)
    rendered = audio.resample(rendered, bundle.sample_rate, rate)
    made[recording.key] = _write_sound(
      output_dir, kind, recording, audio.fit_length(rendered, len(waveform)), rate
    )
  write_list(os.path.join(output_dir, f"{kind}.scp"), made)
  paths = {one.key: one.path for one in recordings}
  write_list(os.path.join(output_dir, "recordings.scp"), paths)
  entries = [*_PAIRED, *_VOICE, *_QUALITY]
  texts = {one.key: " ".join(one.text.split()) for one in recordings if one.text}
  if len(texts) == len(recordings):
    write_list(os.path.join(output_dir, "text"), texts)
    entries += _WORDS
  write_lines(os.path.join(output_dir, f"{kind}.yaml"), entries)
  return {"recordings": len(recordings), "texts": len(texts)}


def export_continuations(
  bundle: Bundle,
  recordings: Sequence[Recording],
  output_dir: str,
  *,
  prompt_seconds: float,
  duration: float,
  seed: int,
) -> JsonDict:
  """Writes continuations, their prompts, and the real continuations of the same length.

  Skips recordings that are shorter than prompt and continuation together, or have a silent prompt.

  Args:
    bundle: the bundle that continues the prompts.
    recordings: the recordings.
    output_dir: an existing folder.
    prompt_seconds: length of a prompt in seconds.
    duration: length of a continuation in seconds.
    seed: seed for the first recording; each following recording uses the next integer.

  Returns:
    The numbers of continuations and of skipped recordings.

  Raises:
    AudioError: a recording cannot be read.
    DataError: every recording is skipped.
  """
  rate = bundle.sample_rate
  cut, whole = (round(seconds * rate) for seconds in (prompt_seconds, prompt_seconds + duration))
  continue_prompt = generation.continuer(bundle, duration, rate)
  lists: dict[str, dict[str, str]] = {"continuation": {}, "prompt": {}, "real": {}}
  for index, recording in enumerate(recordings):
    waveform = audio.load_audio(recording.path, rate, seconds=prompt_seconds + duration + 1)[:whole]
    try:
      audio.check_length(len(waveform), rate, whole / rate, recording.path)
      audio.check_not_silent(waveform[:cut], f"the prompt of {recording.path}")
    except AudioError as error:
      print(f"skipped: {error}")
      continue
    made = continue_prompt(waveform[:cut], seed + index).waveform
    sounds = {"continuation": made, "prompt": waveform[:cut], "real": waveform[cut:]}
    for kind, sound in sounds.items():
      lists[kind][recording.key] = _write_sound(output_dir, kind, recording, sound, rate)
  count = len(lists["continuation"])
  if not count:
    raise DataError(
      f"no recording has {whole / rate:g} s and a prompt that is not silent; shorten "
      "--prompt_seconds or --duration"
    )
  for kind, paths in lists.items():
    write_list(os.path.join(output_dir, f"{kind}.scp"), paths)
  write_lines(os.path.join(output_dir, "continuation.yaml"), [*_VOICE, *_QUALITY])
  return {"continuations": count, "skipped": len(recordings) - count}


def _write_sound(
  output_dir: str, kind: str, recording: Recording, waveform: np.ndarray, sample_rate: int
) -> str:
  """Writes one sound and returns its absolute path."""
  path = os.path.abspath(os.path.join(output_dir, kind, f"{recording.name}.wav"))
  make_folder(os.path.dirname(path))
  audio.write_audio(path, waveform, sample_rate)
  return path
