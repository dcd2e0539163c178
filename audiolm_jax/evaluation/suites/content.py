"""Measures how well tokens represent phones: ABX, purities and mutual information."""

import os
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.bundles import Bundle
from audiolm_jax.codec.quantizer import dequantize
from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.data.manifest import AUDIO_SUFFIXES
from audiolm_jax.evaluation.abx import PhoneItem, abx, frames_of, phone_report, read_items
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult
from audiolm_jax.evaluation.statistics import exact
from audiolm_jax.io import audio, storage

Loaded = TypeVar("Loaded")

WITHIN = Metric("abx_within", "ABX error within speakers", Better.LOWER)
ACROSS = Metric("abx_across", "ABX error across speakers", Better.LOWER)
PNMI = Metric("pnmi", "PNMI of phones and semantic tokens")
CLUSTER_PURITY = Metric("cluster_purity", "cluster purity")
PHONE_PURITY = Metric("phone_purity", "phone purity")

_SEMANTIC = "semantic tokens"
# AudioLM, table I, for LibriSpeech dev-clean: semantic tokens, SoundStream codes at 2 and 6 kbps.
_PAPER = "the paper's: semantic 6.7 / 7.6 %, acoustic 22.4 / 28.7 % and 17.8 / 26.6 %"


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Measures the bundle's tokens on ABX items."""
  read = reader_of(
    items_folder(options.items_audio_dir or options.data),
    lambda path: audio.load_audio(path, bundle.sample_rate),
  )
  return content_suite(bundle, read_items(str(options.items)), read, seed=options.seed)


def items_folder(folder: str | None) -> str:
  """Checks that the folder of the items' audio files exists, and returns it.

  Raises:
    UserError: `folder` is None or not a folder of this machine.
  """
  if not folder or not os.path.isdir(folder):
    raise UserError(
      f"{folder} is no folder; give the folder of the items' files, --items_audio_dir"
    )
  return folder


def content_suite(
  bundle: Bundle,
  items: Sequence[PhoneItem],
  read: Callable[[str], Float[np.ndarray, "samples"]],
  *,
  coarse_levels: int = 4,
  seed: int = 0,
) -> SuiteResult:
  """Measures ABX, purities and PNMI, the phone-normalised mutual information.

  Args:
    bundle: bundle whose tokens are measured; for the vectors that ABX compares, see `features_of`.
    items: phones with file, time and speaker.
    read: function that receives the name of an item's file and returns its waveform at the bundle's
      sample rate.
    coarse_levels: number of coarse levels; codes of these levels and of all levels are measured.
    seed: seed for the choice of items and speakers, see `abx.abx`.
  """
  inside: dict[str, list[tuple[PhoneItem, np.ndarray]]] = {}
  labelled: dict[str, tuple[list[int], list[str]]] = {}
  by_file: dict[str, list[PhoneItem]] = {}
  for item in items:
    by_file.setdefault(item.file, []).append(item)
  for file, of_file in by_file.items():
    tokens, features = features_of(bundle, read(file), coarse_levels)
    labels: tuple[list[int], list[str]] = ([], [])
    for item in of_file:
      for name, (frames, rate) in features.items():
        inside.setdefault(name, []).append((item, frames_of(item, frames, rate)))
      found = frames_of(item, tokens[:, None], bundle.semantic.spec.frame_rate)[:, 0]
      labels[0].extend(int(token) for token in found)
      labels[1].extend([item.phone] * len(found))
    labelled[file] = labels
  reports = {name: abx(found, seed) for name, found in inside.items()}
  rows = [
    Row(metric, estimate, name, note=f"{triples} triples; {_PAPER}")
    for name, report in reports.items()
    for metric, estimate, triples in zip(
      (WITHIN, ACROSS), (report.within, report.across), report.num_triples, strict=True
    )
  ]
  phones = phone_report(labelled)
  rows += [
    Row(PNMI, phones.pnmi),
    Row(CLUSTER_PURITY, exact(phones.cluster_purity, len(labelled))),
    Row(PHONE_PURITY, exact(phones.phone_purity, len(labelled))),
  ]
  return SuiteResult(rows, {"abx": reports, "phones": phones, "items": len(items)})


class Features(NamedTuple):
  """The vectors of a recording's tokens.

  Attributes:
    frames: one vector for each token or frame of codes.
    frame_rate: frames per second.
  """

  frames: Float[np.ndarray, "frames dim"]
  frame_rate: float


def features_of(
  bundle: Bundle, waveform: Float[np.ndarray, "samples"], coarse_levels: int = 4
) -> tuple[Int[np.ndarray, "steps"], dict[str, Features]]:
  """Returns the semantic tokens of a recording, and the vectors that ABX compares, by name.

  The vector of a semantic token is its centroid. The vector of a frame of codes is the sum of
  their codebook entries.

  Args:
    bundle: bundle whose tokenizers encode the recording.
    waveform: samples at the bundle's sample rate.
    coarse_levels: number of coarse levels; the result has vectors for these levels and for all
      levels.
  """
  semantic, codec = bundle.semantic, bundle.codec
  tokens = np.asarray(semantic.tokenize_long(waveform))
  codes = np.asarray(codec.encode_long(waveform))
  centroids = np.asarray(semantic.params["centroids"])
  found = {_SEMANTIC: Features(centroids[tokens], semantic.spec.frame_rate)}
  every = codec.spec.num_quantizers
  for count in sorted({min(coarse_levels, every), every}):
    vectors = dequantize(jnp.asarray(codes[:, :count]), jnp.asarray(codec.codebooks))
    name = f"acoustic codes, {count} levels"
    found[name] = Features(np.asarray(vectors), codec.spec.frame_rate)
  return tokens, found


def reader_of(folder: str, load: Callable[[str], Loaded]) -> Callable[[str], Loaded]:
  """Returns a function that finds an item's file anywhere in a folder and loads it.

  Args:
    folder: folder of the audio files.
    load: function that receives the path of a file and loads it.

  Returns:
    A function that receives the name of a file without suffix and returns the result of `load`. It
    raises `DataError` if the folder has no such audio file.
  """
  names = [PurePosixPath(entry.name) for entry in storage.list_files(folder)]
  paths = {
    name.stem: storage.join(folder, str(name))
    for name in names
    if name.suffix.lower() in AUDIO_SUFFIXES
  }

  def read(file: str) -> Loaded:
    if file not in paths:
      raise DataError(
        f"the items name {file}, and {folder} has no such file ({' '.join(AUDIO_SUFFIXES)})"
      )
    return load(paths[file])

  return read
