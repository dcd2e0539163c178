r"""Labels the frames of a speech corpus with clusters, to train a unit encoder.

  python launch/make_unit_labels.py --audio_dir corpus.jsonl --canonical_speaker hibari-heart \
    --output labels.npz
  python -m audiolm_jax.train --gin_file=gin_configs/units_small.gin \
    --gin_file=gin_configs/runs/labelled_frames_in_memory.gin \
    --gin.AUDIO_DIR="'corpus.jsonl'" --gin.FRAME_LABELS="'labels.npz'" \
    --gin.MODEL_DIR="'runs/units'"

The manifest has rows with path, speaker and text. A clip gets labels only if the canonical speaker
has also read its text; make_speech_corpus.py creates such corpora. The frames of the canonical
speaker are clustered. Each frame of another speaker gets the cluster of the canonical frame with
which it is aligned. The first round uses cepstra as features. For a second round, --encoder_dir
names the training run of the first round, whose encoder computes the features.

Without --canonical_speaker, every frame gets the cluster of its own features, which --encoder_dir
or --bundle computes. No texts are needed, and all clips get labels. The last round of
launch/train_bundle.sh uses many such clusters (--num_labels=1024), and gives the copies that
make_decoded_copies.py wrote the labels of their recordings (--labels_of_source).
"""

from collections.abc import Sequence

from absl import flags

from audiolm_jax.bundles import load_bundle
from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import run_cli
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.data.frame_labels import save_frame_labels
from audiolm_jax.data.manifest import list_clips
from audiolm_jax.io.files import check_writable
from audiolm_jax.semantic.features import LogMelConfig
from audiolm_jax.semantic.unit_encoder import UnitTokenizer
from audiolm_jax.trainables.registry import load_inference_params
from audiolm_jax.trainables.unit_labels import (
  FrameFeatures,
  cepstral_features,
  cluster_clips,
  encoder_features,
  label_clips,
)

FLAGS = flags.FLAGS
flags.DEFINE_string("audio_dir", None, "Manifest with the fields path, speaker and text.")
flags.DEFINE_string(
  "canonical_speaker", None, "The speaker whose frames are clustered; default: all speakers."
)
flags.DEFINE_string("output", None, "The .npz file to write.")
flags.DEFINE_string("encoder_dir", None, "MODEL_DIR of an earlier round; cepstra by default.")
flags.DEFINE_string("bundle", None, "Bundle with a unit encoder, instead of --encoder_dir.")
flags.DEFINE_bool(
  "labels_of_source",
  False,
  "Without --canonical_speaker: a clip with source_path gets the labels of its source recording.",
)
flags.DEFINE_integer("num_labels", 200, "Number of clusters.", 2)
flags.DEFINE_integer("seed", 0, "Seed of the clustering.")
flags.DEFINE_float("kept_share", 0.9, "Share of the aligned clips that get labels.", 0.01, 1.0)
flags.DEFINE_float(
  "canonical_share", 0.25, "Maximum share of labelled frames from the canonical voice.", 0.0, 1.0
)


def main(argv: Sequence[str]) -> None:
  """Writes the labels and prints a report."""
  del argv
  for name in ("audio_dir", "output"):
    if not FLAGS[name].value:
      raise ConfigError(f"--{name} is required")
  check_writable(FLAGS.output, [FLAGS.audio_dir])
  compilation_cache.enable()
  clips, features = list_clips(FLAGS.audio_dir), _features()
  if FLAGS.canonical_speaker:
    if FLAGS.labels_of_source:
      raise ConfigError("give either --canonical_speaker or --labels_of_source")
    labels, report = label_clips(
      clips,
      FLAGS.canonical_speaker,
      features,
      num_labels=FLAGS.num_labels,
      seed=FLAGS.seed,
      kept_share=FLAGS.kept_share,
      canonical_share=FLAGS.canonical_share,
    )
    print(report)
  else:
    labels = cluster_clips(
      clips,
      features,
      num_labels=FLAGS.num_labels,
      seed=FLAGS.seed,
      of_source=FLAGS.labels_of_source,
    )
  save_frame_labels(FLAGS.output, labels)
  print(f"wrote {FLAGS.output}")


def _features() -> FrameFeatures:
  if FLAGS.bundle:
    if FLAGS.encoder_dir:
      raise ConfigError("give either --encoder_dir or --bundle")
    tokenizer = load_bundle(FLAGS.bundle, stages=()).semantic
    if not isinstance(tokenizer, UnitTokenizer):
      raise ConfigError(f"{FLAGS.bundle} has no unit encoder; choose another bundle")
    return encoder_features(tokenizer.config.encoder, tokenizer.params["encoder"])
  if not FLAGS.encoder_dir:
    if not FLAGS.canonical_speaker:
      raise ConfigError("without --canonical_speaker, give --encoder_dir or --bundle")
    return cepstral_features(LogMelConfig(hop_length=320))
  component, config, params = load_inference_params(FLAGS.encoder_dir)
  if component != "units":
    raise ConfigError(f"{FLAGS.encoder_dir} is a run of {component!r}, not of a unit encoder")
  return encoder_features(config.encoder, params["encoder"])


if __name__ == "__main__":
  run_cli(main)
