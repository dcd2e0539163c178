"""Transcripts of a corpus."""

import os
from collections.abc import Iterable
from pathlib import PurePosixPath

from audiolm_jax.core import plain_json
from audiolm_jax.core.errors import DataError
from audiolm_jax.data.manifest import AudioClip
from audiolm_jax.io import storage


def read_field(manifest: str | os.PathLike[str], field: str) -> dict[str, str]:
  """Returns the values of one manifest field by clip id; omits rows without a value.

  Returns an empty dictionary if `manifest` is a folder.

  Raises:
    DataError: a row is not a JSON object, or has a value but no path.
    OSError: the manifest cannot be read.
    UserError: the manifest is not text, or a URL cannot be reached.
  """
  if storage.is_folder(manifest):
    return {}
  found = {}
  for number, line in enumerate(storage.read_lines(manifest), start=1):
    try:
      row = plain_json.parse(line) if line.strip() else {}
      if row.get(field):
        found[str(row["path"])] = str(row[field])
    except (ValueError, KeyError, AttributeError) as error:
      raise DataError(
        f"{manifest}, line {number}: not a JSON object with a path and {field} ({error})"
      ) from error
  return found


def texts_of(clips: Iterable[AudioClip], source: str | os.PathLike[str]) -> dict[str, str]:
  """Returns transcripts by clip id; omits the clips without a transcript in `source`."""
  transcripts = read_transcripts(source)
  found = {
    clip.id: transcripts.get(clip.id) or transcripts.get(PurePosixPath(clip.id).stem)
    for clip in clips
  }
  return {name: text for name, text in found.items() if text}


def read_transcripts(source: str | os.PathLike[str]) -> dict[str, str]:
  """Returns the transcripts of a corpus.

  Args:
    source: a manifest, whose field `text` is read; or a folder, whose LibriSpeech (`*.trans.txt`)
      and LJSpeech (`metadata.csv`) files are read.

  Returns:
    Transcripts by clip id for a manifest, by file name without suffix for a folder.

  Raises:
    OSError: a file cannot be read.
    UserError: a file is not text, a row of the manifest is not valid, or a URL cannot be reached.
  """
  if not storage.is_folder(source):
    return read_field(source, "text")
  found: dict[str, str] = {}
  for entry in storage.list_files(source):
    name = PurePosixPath(entry.name).name
    if name.endswith(".trans.txt"):
      for line in storage.read_lines(storage.join(source, entry.name)):
        clip, _, text = line.partition(" ")
        found[clip] = text
    elif name == "metadata.csv":
      for line in storage.read_lines(storage.join(source, entry.name)):
        clip, *readings = line.split("|")
        if readings:
          found[clip] = readings[-1]
  return found
