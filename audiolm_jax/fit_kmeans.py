"""Makes a semantic tokenizer by clustering the features of an encoder.

  python -m audiolm_jax.fit_kmeans --encoder_dir=runs/semantic --audio_dir=AUDIO --output=OUT
  python -m audiolm_jax.fit_kmeans --from=hubert_base --layer=9 --audio_dir=AUDIO --output=OUT

The encoder is the encoder of a training run (--encoder_dir) or a published encoder (--from and
--input, see convert). The command writes two files to the folder --output: `semantic.safetensors`
(the tokenizer: encoder up to the layer, whitening, centroids) and `report.json` (configuration of
the tokenizer and statistics of the clusters).
"""

from collections.abc import Sequence
from pathlib import Path

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.data.manifest import clips_of_split, list_clips
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer
from audiolm_jax.trainables.semantic_tokenizer import (
  REPORT_FILE,
  TENSORS_FILE,
  cluster_features,
  save_tokenizer,
  unclustered_tokenizer,
)

FLAGS = flags.FlagValues()
for _name, _text in {
  "encoder_dir": "MODEL_DIR of a semantic encoder's training run.",
  "from": "Name of a published encoder instead, such as hubert_base.",
  "input": "Folder or safetensors file of its weights, or its id on the hub.",
  "audio_dir": "Folder of audio files, searched recursively.",
  "manifest": "A .jsonl manifest of audio files instead.",
  "output": "Folder to write, created if missing.",
  "accept_licence": "The licence of a published encoder's weights, if it needs your agreement.",
}.items():
  flags.DEFINE_string(_name, None, _text, flag_values=FLAGS)
for _name, _default, _text in (
  (
    "layer",
    None,
    "Encoder block, counted from 1; default for --encoder_dir: 7/12 of the masked stack.",
  ),
  ("num_clusters", 1024, "Number of semantic tokens."),
  ("step", None, "Step of the checkpoint; default: the newest."),
  ("seed", 0, "Seed of the clustering."),
  ("max_frames", 2_000_000, "If there are more frames, a uniform sample of this size is used."),
  ("chunk_steps", 512, "Tokens per window when long files are tokenized."),
  ("steps_per_token", 1, "Steps of a published encoder that are averaged; 2 halves the rate."),
):
  flags.DEFINE_integer(_name, _default, _text, flag_values=FLAGS)
flags.DEFINE_string("split", "train", "The split whose clips are used.", flag_values=FLAGS)
flags.DEFINE_float(
  "max_skipped_fraction", 0.01, "Share of clips that may be unreadable.", flag_values=FLAGS
)


def main(argv: Sequence[str]) -> None:
  """Clusters the features, writes the tokenizer and prints a report."""
  del argv
  compilation_cache.enable()
  output = Path(_given("output"))
  if bool(FLAGS.audio_dir) == bool(FLAGS.manifest):
    raise ConfigError("give either --audio_dir or --manifest")
  clips = clips_of_split(list_clips(FLAGS.audio_dir or FLAGS.manifest), FLAGS.split)
  tokenizer, report = cluster_features(
    _published() if FLAGS["from"].value else _own(),
    clips,
    num_clusters=FLAGS.num_clusters,
    seed=FLAGS.seed,
    max_frames=FLAGS.max_frames,
    max_skipped_fraction=FLAGS.max_skipped_fraction,
  )
  save_tokenizer(output, tokenizer, report)
  print(report)
  print(f"wrote {output / TENSORS_FILE} and {output / REPORT_FILE}")


def _own() -> ChunkedTokenizer:
  """Returns the encoder of a training run as a tokenizer without clusters.

  Raises:
    ConfigError: the run trains no semantic encoder, or --layer is given for a unit encoder.
  """
  from audiolm_jax.semantic.unit_encoder import UnitTokenizer
  from audiolm_jax.trainables.registry import load_inference_params

  encoder_dir = _given("encoder_dir")
  component, config, params = load_inference_params(encoder_dir, FLAGS.step)
  if component == "units":
    if FLAGS.layer is not None:
      raise ConfigError("--layer is for w2v-BERT; units are clusters of the last block")
    return UnitTokenizer.unclustered(config.encoder, params["encoder"], FLAGS.chunk_steps)
  if component != "semantic":
    raise ConfigError(f"{encoder_dir} is a run of {component!r}, not of a semantic encoder")
  layer = config.default_layer if FLAGS.layer is None else FLAGS.layer
  return unclustered_tokenizer(config, params, layer, FLAGS.chunk_steps)


def _published() -> ChunkedTokenizer:
  """Returns a published encoder as a tokenizer without clusters.

  Raises:
    ConfigError: the model is no semantic encoder, or the flags are inconsistent.
  """
  from audiolm_jax.pretrained import registry
  from audiolm_jax.pretrained.weights import read_published

  name = _given("from")
  model = registry.find_model(name)
  if FLAGS.encoder_dir:
    raise ConfigError("give either --encoder_dir or --from")
  if model.component != "semantic":
    raise ConfigError(f"{name} is a {model.component}, not a semantic encoder")
  if FLAGS.layer is None:
    raise ConfigError(f"{name} needs --layer, counted from 1")
  print(registry.check_terms(model, FLAGS.accept_licence))
  published = read_published(FLAGS.input or model.hub_id)
  settings = {"layer": FLAGS.layer, "steps_per_token": FLAGS.steps_per_token}
  return registry.convert(model, published, **settings)


def _given(name: str) -> str:
  value = FLAGS[name].value
  if not value:
    raise ConfigError(f"--{name} is required")
  return value


if __name__ == "__main__":
  run_cli(main, FLAGS)
