"""What tokens keep of what is said: ABX on both streams, and how semantic tokens go with phones."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from audiolm_jax.codec.quantizer import dequantize
from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.data.manifest import AUDIO_SUFFIXES
from audiolm_jax.evaluation.abx import AbxReport, Item, abx, frames_of, phone_report, read_items
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Better, Row, SuiteResult, exact, left_out
from audiolm_jax.io import audio

Loaded = TypeVar("Loaded")

# AudioLM, table I, on LibriSpeech dev-clean: semantic tokens, and SoundStream's at 2 and 6 kbps.
_PAPER = "the paper's: semantic 6.7 / 7.6 %, acoustic 22.4 / 28.7 % and 17.8 / 26.6 %"


def run(bundle: Any, options: Options) -> SuiteResult:
  """On the items that are given."""
  if not options.items:
    return left_out("no --items are given")
  read = reader_of(
    items_folder(options.items_audio_dir or options.data),
    lambda path: audio.load_audio(path, bundle.sample_rate),
  )
  return content_suite(bundle, read_items(options.items), read, seed=options.seed)


def items_folder(folder: str | None) -> str:
  """The folder of the items' files.

  Raises:
    UserError: it is none.
  """
  if not folder or not os.path.isdir(folder):
    raise UserError(f"{folder} is no folder; --items_audio_dir says where the items' files are")
  return folder


def content_suite(
  bundle: Any,
  items: Sequence[Item],
  read: Callable[[str], Float[np.ndarray, "samples"]],
  *,
  coarse_levels: int = 4,
  seed: int = 0,
) -> SuiteResult:
  """ABX within and across speakers of tokens as their centroids; purities and PNMI.

  Args:
    items: phones, where they are and who says them.
    read: gives the waveform of an item's file at the bundle's rate.
    coarse_levels: of the codec, beside all of its levels.
  """
  semantic, codec = bundle.semantic, bundle.codec
  rates = {"semantic tokens": semantic.spec.frame_rate}
  levels = sorted({min(coarse_levels, codec.spec.num_quantizers), codec.spec.num_quantizers})
  rates |= {f"acoustic codes, {count} levels": codec.spec.frame_rate for count in levels}
  centroids = np.asarray(semantic.params["centroids"])
  inside: dict[str, list[tuple[Item, np.ndarray]]] = {name: [] for name in rates}
  labelled: dict[str, tuple[list[int], list[str]]] = {}
  by_file: dict[str, list[Item]] = {}
  for item in items:
    by_file.setdefault(item.file, []).append(item)
  for file, of_file in by_file.items():
    waveform = read(file)
    tokens = np.asarray(semantic.tokenize_long(waveform))
    codes = np.asarray(codec.encode_long(waveform))
    features = {"semantic tokens": centroids[tokens]}
    for count in levels:
      embedded = dequantize(jnp.asarray(codes[:, :count]), jnp.asarray(codec.codebooks))
      features[f"acoustic codes, {count} levels"] = np.asarray(embedded)
    labels: tuple[list[int], list[str]] = ([], [])
    for item in of_file:
      for name, frames in features.items():
        inside[name].append((item, frames_of(item, frames, rates[name])))
      found = frames_of(item, tokens[:, None], rates["semantic tokens"])[:, 0]
      labels[0].extend(int(token) for token in found)
      labels[1].extend([item.phone] * len(found))
    labelled[file] = labels
  reports = {name: abx(found, seed) for name, found in inside.items()}
  rows = [row for name, report in reports.items() for row in _rows(name, report)]
  phones = phone_report(labelled)
  rows += [
    Row("content", "PNMI of phones and semantic tokens", phones.pnmi),
    Row("content", "cluster purity", exact(phones.cluster_purity, len(labelled))),
    Row("content", "phone purity", exact(phones.phone_purity, len(labelled))),
  ]
  return SuiteResult(rows, {"abx": reports, "phones": phones, "items": len(items)})


def reader_of(folder: str, load: Callable[[str], Loaded]) -> Callable[[str], Loaded]:
  """Loads an item's file, given without its suffix, from anywhere in a folder.

  Raises:
    DataError: when called with a file that is not there.
  """
  paths = {p.stem: p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in AUDIO_SUFFIXES}

  def read(file: str) -> Loaded:
    if file not in paths:
      raise DataError(
        f"the items name {file}, and {folder} has no such file ({' '.join(AUDIO_SUFFIXES)})"
      )
    return load(str(paths[file]))

  return read


def _rows(name: str, report: AbxReport) -> list[Row]:
  return [
    Row(
      "content",
      f"ABX error {kind} speakers, {name}",
      estimate,
      Better.LOWER,
      note=f"{triples} triples; {_PAPER}",
    )
    for kind, estimate, triples in zip(
      ("within", "across"), (report.within, report.across), report.num_triples, strict=True
    )
  ]
