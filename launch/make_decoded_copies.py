r"""Writes copies of training clips that the codec of a bundle encoded and decoded.

  python launch/make_decoded_copies.py --bundle tokenizers --manifest speech.jsonl \
    --output_dir speech_decoded
  python launch/make_unit_labels.py --audio_dir speech_decoded/manifest.jsonl --bundle tokenizers \
    --labels_of_source --num_labels 1024 --output labels.npz

A unit encoder that is trained on both gives decoded speech nearly the same units as the recording.
The new manifest contains the clips of the corpus and the copies, with absolute paths. The
`source_path` of a copy is its recording; other rows have none. A third of the copies is decoded
from four levels of the codes, the others from all levels. Only clips of the split `train` are
copied.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from audiolm_jax.bundles import Bundle, load_bundle
from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import check_given, run_cli
from audiolm_jax.data import synthetic_corpora
from audiolm_jax.data.manifest import AudioClip, list_clips, read_clip
from audiolm_jax.io import audio

FLAGS = flags.FLAGS
flags.DEFINE_string("bundle", None, "Name or folder of the bundle with the codec.")
flags.DEFINE_string("manifest", None, "A .jsonl manifest of the corpus.")
flags.DEFINE_string("output_dir", None, "Folder for the copies.")
flags.DEFINE_float("share", 0.5, "Share of the training clips that is copied.", 0.0, 1.0)
flags.DEFINE_integer("seed", 0, "Seed of the choice of clips and of their numbers of levels.")

FEW_LEVELS = 4
SHARE_OF_FEW_LEVELS = 1 / 3
DETERMINING = ("bundle", "manifest", "share", "seed")


def main(argv: Sequence[str]) -> None:
  """Writes the missing copies and the manifest."""
  del argv
  check_given(FLAGS, "bundle", "manifest", "output_dir")
  compilation_cache.enable()
  clips, folder = list_clips(FLAGS.manifest), Path(FLAGS.output_dir).absolute()
  synthetic_corpora.begin(folder, {name: FLAGS[name].value for name in DETERMINING})
  rows = make_copies(folder, clips, load_bundle(FLAGS.bundle, stages=()), FLAGS.share, FLAGS.seed)
  synthetic_corpora.write_manifest(folder, rows)
  print(f"wrote {folder / 'manifest.jsonl'}: {len(clips)} clips, {len(rows) - len(clips)} copies")


def make_copies(
  folder: Path, clips: Sequence[AudioClip], bundle: Bundle, share: float, seed: int
) -> list[dict[str, Any]]:
  """Writes the missing copies and returns the rows of all clips, followed by those of the copies.

  Args:
    folder: folder of the copies.
    clips: the clips of the corpus.
    bundle: the bundle with the codec.
    share: share of the training clips that is copied.
    seed: seed of the choice of clips and of their numbers of levels.
  """
  rng = np.random.default_rng(seed)
  rows = [row_of(clip) for clip in clips]
  copies = []
  for number, clip in enumerate(clips):
    is_chosen, has_few = rng.random(2) < (share, SHARE_OF_FEW_LEVELS)
    if is_chosen and clip.split == "train":
      path = folder / "clips" / f"{number:06d}.flac"
      if not path.exists():
        write_copy(bundle, clip, FEW_LEVELS if has_few else None, path)
      copies.append(rows[number] | {"path": str(path), "source_path": rows[number]["path"]})
  return rows + copies


def row_of(clip: AudioClip) -> dict[str, Any]:
  """Returns the row of a clip, without its source recording."""
  fields = synthetic_corpora.given_fields(clip, "split", "speaker", "seconds", "label", "text")
  return {"path": str(Path(clip.path).absolute()), **fields}


def write_copy(bundle: Bundle, clip: AudioClip, levels: int | None, path: Path) -> None:
  """Writes a clip as the codec decodes it, with the same number of samples.

  Args:
    bundle: the bundle with the codec.
    clip: the clip.
    levels: number of levels of the codes; None for all levels.
    path: the file to write.
  """
  waveform = read_clip(clip, bundle.sample_rate)
  codes = bundle.codec.encode_long(waveform)
  copy = bundle.decode(codes[:, :levels])[: len(waveform)]
  synthetic_corpora.make_folder(path.parent)
  audio.write_audio(path, copy, bundle.sample_rate)


if __name__ == "__main__":
  run_cli(main)
