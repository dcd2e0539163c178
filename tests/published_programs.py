"""The programs of published models and of the small codec, described without arrays, in one list.

`PROGRAMS` has for each program a function that lowers it for some platforms. It knows shapes only,
so a model of any size takes up no memory, and nothing is computed.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import meta
from jax import export

from audiolm_jax import train
from audiolm_jax.chunking import ChunkedModel
from audiolm_jax.codec.chunked_codec import ChunkedCodec
from audiolm_jax.codec.frame_rate import FrameRateConfig
from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.detection import detector
from audiolm_jax.lm.attention import Cache
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.stages import AutoregressiveSpec
from audiolm_jax.lm.transformer import Transformer
from audiolm_jax.pretrained import dac, encodec, hubert, lyra, mimi, w2v_bert_2
from audiolm_jax.pretrained.hubert_tokenizer import HubertTokenizer, HubertTokenizerConfig
from audiolm_jax.pretrained.layer_tokenizer import windows_of_30_seconds
from audiolm_jax.pretrained.w2v_bert_2_tokenizer import W2vBert2Tokenizer, W2vBert2TokenizerConfig
from audiolm_jax.sampling import conditioned_decoder, decoder, loop, parallel_decoder
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.semantic.conformer import ConformerEncoder
from audiolm_jax.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig
from audiolm_jax.training.partitioning import Partitioner
from audiolm_jax.training.program import TrainingProgram

Platforms = Sequence[str]
Lower = Callable[[Platforms], export.Exported]

GIN = Path(__file__).parents[1] / "gin_configs"
# What is trained at the size that the papers describe.
# The programs of the speech stage are those of the text stage for sources of another length.
TRAINED = sorted(
  {path.stem for size in ("base", "xl") for path in GIN.glob(f"*_{size}.gin")}
  - {"speech_stage_base"}
)
PARALLEL = "parallel_stage_base"
CONDITIONED = ("text_stage_base", "transcript_stage_base")
STAGES = [
  name
  for name in TRAINED
  if name not in (PARALLEL, *CONDITIONED)
  and ("_stage_" in name or name.startswith("acoustic_only_"))
]
# Clips and sequences side by side.
ROWS = 4


@functools.cache
def settings(name: str) -> dict[str, Any]:
  """Returns the keywords of `run.train` that a gin file gives."""
  data = "AUDIO_DIR" if name == "detector_base" else "MIXTURE_OR_TASK_NAME"
  found, _ = train.resolve([f"gin_configs/{name}.gin"], ["MODEL_DIR = 'none'", f"{data} = 'none'"])
  return found


def array(*shape: int, dtype: Any = np.float32) -> Any:
  """Shape and type of an array, which stand for the array."""
  return jax.ShapeDtypeStruct(shape, dtype)


def export_function(function: Callable[..., Any], *arguments: Any, platforms: Platforms):
  """A function lowered for arguments of these shapes."""
  return export.export(jax.jit(function), platforms=platforms)(*arguments)


@functools.cache
def training_program(name: str, **changes: Any) -> TrainingProgram:
  """The training program of a gin file, with changes to the trainable's configuration."""
  found = settings(name)
  config = dataclasses.replace(found["model"].config, **changes)
  partitioner = Partitioner(found["config"].partitioning, jax.devices()[:1])
  return TrainingProgram(
    type(found["model"])(config), partitioner, found["train_dataset"].batch_shapes()
  )


def training_step(name: str, step: int, platforms: Platforms, **changes: Any) -> export.Exported:
  """Training step `step`."""
  return training_program(name, **changes).exported(step, platforms)


def soundstream_shapes() -> tuple[SoundStreamConfig, dict[str, Any]]:
  """A SoundStream's configuration, and the shapes of what its inference needs."""
  program = training_program("codec_base", adversarial_start_step=1)
  model = settings("codec_base")["model"]
  return model.config.model, jax.eval_shape(model.inference_params, program.abstract_state)


def frame_rate_shapes() -> tuple[FrameRateConfig, dict[str, Any]]:
  """The same of the small codec."""
  config = FrameRateConfig()
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0)))
  params = jax.eval_shape(config.init_params, keys, array(1, config.hop_length))
  books = array(config.num_quantizers, config.codebook_size, config.latent_dim)
  return config, {**meta.unbox(params), "codebooks": books}


def published_shapes(config: Any) -> tuple[Any, dict[str, Any]]:
  """The same of a published codec."""
  return config, abstract(config.parameter_shapes())


def abstract(shapes: dict[str, Any]) -> dict[str, Any]:
  """Nested shapes as those of float32 arrays."""
  return jax.tree.map(lambda shape: array(*shape), shapes, is_leaf=lambda x: isinstance(x, tuple))


def tokenize_by_w2v_bert(platforms: Platforms) -> export.Exported:
  """The largest window of a w2v-BERT XL, at the paper's layer."""
  config = SemanticTokenizerConfig(settings("semantic_encoder_xl")["model"].config.encoder)
  encoder = config.encoder.truncated(config.layer)
  frames = array(1, 64, encoder.features.num_mels)
  init = ConformerEncoder(encoder).init
  variables = jax.eval_shape(init, jax.random.key(0), frames, array(1, 16, dtype=bool))
  params = whitened(meta.unbox(variables["params"]), encoder.dim, config.num_clusters)
  samples = config.window_steps * encoder.hop_length + 2 * encoder.features.margin
  return tokenize(SemanticTokenizer, config, params, array(ROWS, samples), platforms)


def tokenize_by_hubert(encoder: hubert.HubertConfig, platforms: Platforms) -> export.Exported:
  """Thirty seconds through the first eleven blocks of a HuBERT."""
  config = HubertTokenizerConfig(encoder, 11, 500, **windows_of_30_seconds(encoder, 1))
  params = abstract(config.parameter_shapes())
  samples = config.window_steps * config.hop_length - encoder.hop_length + encoder.frame_length
  return tokenize(HubertTokenizer, config, params, array(ROWS, samples), platforms)


def tokenize_by_w2v_bert_2(platforms: Platforms) -> export.Exported:
  """Thirty seconds through a w2v-BERT 2.0."""
  encoder = w2v_bert_2.W2vBert2Config()
  config = W2vBert2TokenizerConfig(encoder, **windows_of_30_seconds(encoder, 1))
  params = abstract(config.parameter_shapes())
  steps = array(ROWS, config.window_steps, w2v_bert_2.FRAMES_PER_STEP * encoder.num_mels)
  return tokenize(W2vBert2Tokenizer, config, params, steps, platforms)


def tokenize(
  kind: type, config: Any, params: Any, padded: jax.ShapeDtypeStruct, platforms: Platforms
) -> export.Exported:
  """One window of a tokenizer."""
  return export_function(
    lambda params, padded, valid: kind(config, params).encode_chunks(padded, valid),
    params,
    padded,
    array(ROWS, dtype=np.int32),
    platforms=platforms,
  )


def whitened(encoder: Any, dim: int, num_clusters: int) -> dict[str, Any]:
  """Shapes of a tokenizer's parameters."""
  vector = array(dim)
  centroids = array(num_clusters, dim)
  return {"encoder": encoder, "mean": vector, "scale": vector, "centroids": centroids}


def codec_chunk(
  part: str,
  kind: type[ChunkedCodec],
  shapes: Callable[[], tuple[Any, dict[str, Any]]],
  platforms: Platforms,
) -> export.Exported:
  """The largest chunk of sound through a codec's "encoder", or of codes through its "decoder"."""
  config, params = shapes()
  model: ChunkedModel = getattr(kind(config, {}), part)
  frames = model.sizes.largest
  codes = array(ROWS, frames, config.num_quantizers, dtype=np.int32)
  return export_function(
    lambda params, *arguments: getattr(kind(config, params), part).step(*arguments),
    params,
    array(ROWS, frames * model.unit) if part == "encoder" else codes,
    array(ROWS, dtype=np.int32),
    jax.eval_shape(functools.partial(model.start_state, ROWS)),
    platforms=platforms,
  )


@functools.cache
def sampling_shapes(name: str) -> tuple[loop.AutoregressiveProgram, Any, Any]:
  """A stage's program, and the shapes of its parameters and of its cache for a whole sequence."""
  config = settings(name)["model"].config
  spec: AutoregressiveSpec = config.spec
  shape: TransformerConfig = config.transformer
  program = loop.program_of(spec, dataclasses.replace(shape.shape(), dtype=shape.dtype))
  tokens = array(1, 8, dtype=np.int32)
  model = Transformer(program.config, spec.layout.vocab_size)
  params = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"])
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: array(*x.shape, dtype=decoder.stored_dtype(path, x.ndim, shape.dtype)), params
  )
  heads, size = (ROWS, program.config.kv_heads), program.config.head_size
  layer = Cache(
    array(*heads, size, spec.max_length, dtype=shape.dtype),
    array(*heads, spec.max_length, size, dtype=shape.dtype),
  )
  return program, params, (layer,) * program.config.num_layers


def prefill(name: str, platforms: Platforms) -> export.Exported:
  """A prompt of half a sequence."""
  program, params, _ = sampling_shapes(name)
  tokens = array(ROWS, program.spec.max_length // 2, dtype=np.int32)
  return export_function(
    lambda params, tokens, frame_ids, lengths, longest: loop.prefill(
      program, params, tokens, frame_ids, lengths, longest, program.spec.max_length
    ),
    params,
    tokens,
    tokens,
    array(ROWS, dtype=np.int32),
    array(dtype=np.int32),
    platforms=platforms,
  )


def repeat_prompt(name: str, platforms: Platforms) -> export.Exported:
  """The cache of one prompt for several samples of it."""
  _, _, cache = sampling_shapes(name)
  rows = array(2 * ROWS, dtype=np.int32)
  return export_function(loop.repeated, cache, rows, platforms=platforms)


def decoding_loop(name: str, platforms: Platforms) -> export.Exported:
  """The loop over tokens, with all that may restrict what is drawn."""
  program, params, cache = sampling_shapes(name)
  controls = SamplingOptions(temperature=0.8, top_k=50, top_p=0.9).controls
  number, row = array(dtype=np.int32), array(ROWS, dtype=np.int32)
  drawn = array(ROWS, program.spec.max_length // 2, dtype=np.int32)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), ROWS))
  inputs = loop.LoopInputs(
    row, row, drawn, keys, jax.eval_shape(lambda: controls), row, ((),) * len(program.processors)
  )
  frames = program.history + -(-drawn.shape[1] // program.per_frame)
  shown = (frames, program.levels) if program.processors else (0, 0)
  state = loop.LoopState(number, number, row, cache, drawn, array(ROWS, *shown, dtype=np.int32))
  return export_function(
    functools.partial(loop.decode, program), params, inputs, state, number, platforms=platforms
  )


def parallel_pass(
  function: Callable[..., Any],
  *static: Any,
  guided: bool,
  arguments: Callable[..., Any],
  platforms: Platforms,
) -> export.Exported:
  """One program of a pass of the parallel stage, over a whole window."""
  config = settings(PARALLEL)["model"].config
  spec, shape = config.spec, config.transformer.shape()
  layers = dataclasses.replace(shape.transformer, dtype="bfloat16")
  shape = dataclasses.replace(shape, transformer=layers)
  codes = array(ROWS, spec.crop_frames, spec.num_quantizers, dtype=np.int32)
  init = functools.partial(spec.init, shape)
  params = meta.unbox(jax.eval_shape(init, jax.random.key(0), {"codes": codes}))
  rows = ROWS * (1 + guided)
  return export_function(
    functools.partial(function, spec, shape, *static),
    params,
    *arguments(codes, rows, layers.dim),
    platforms=platforms,
  )


def parallel_encode(platforms: Platforms) -> export.Exported:
  """The layers, with and without semantic tokens."""

  def arguments(codes, rows, dim):
    del dim
    return codes, array(rows, codes.shape[1], dtype=np.int32), array(ROWS, dtype=np.int32)

  return parallel_pass(
    parallel_decoder.encode, guided=True, arguments=arguments, platforms=platforms
  )


def parallel_choose(platforms: Platforms) -> export.Exported:
  """The draws of a level, with all that may restrict what is drawn."""
  controls = SamplingOptions(temperature=0.8, top_k=50, top_p=0.9).controls
  number, row = array(dtype=np.int32), array(ROWS, dtype=np.int32)
  factor = array()
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), ROWS))

  def arguments(codes, rows, dim):
    hidden = array(rows, codes.shape[1], dim, dtype="bfloat16")
    settings = parallel_decoder.Pass(
      number, number, factor, factor, factor, jax.eval_shape(lambda: controls)
    )
    return hidden, codes, parallel_decoder.Rows(keys, row, row, row), settings

  return parallel_pass(
    parallel_decoder.choose, (), guided=True, arguments=arguments, platforms=platforms
  )


@functools.cache
def conditioned_shapes(name: str) -> tuple[conditioned_decoder.ConditionedProgram, Any, Any]:
  """The program of a conditioned stage, and the shapes of its parameters and encoded sources."""
  config = settings(name)["model"].config
  spec, shape = config.spec, config.transformer.shape()
  layers = dataclasses.replace(shape.transformer, dtype="bfloat16")
  program = conditioned_decoder.ConditionedProgram(
    spec, dataclasses.replace(shape, transformer=layers)
  )
  batch = {
    name: array(ROWS, *feature.shape, dtype=feature.dtype)
    for name, feature in spec.features().items()
  }
  init = functools.partial(spec.init, program.config)
  params = meta.unbox(jax.eval_shape(init, jax.random.key(0), batch))
  params = jax.eval_shape(spec.inference_params, params)
  source = array(ROWS, spec.source_length, dtype=np.int32)
  encode = functools.partial(conditioned_decoder.encode, program)
  encoded = jax.eval_shape(lambda p, s: encode(p, s, spec.max_steps), params, source)
  return program, params, encoded


def conditioned_encode(name: str, platforms: Platforms) -> export.Exported:
  """The encoder, and the keys and values of the source."""
  program, params, _ = conditioned_shapes(name)
  spec = program.spec
  return export_function(
    lambda params, source: conditioned_decoder.encode(program, params, source, spec.max_steps),
    params,
    array(ROWS, spec.source_length, dtype=np.int32),
    platforms=platforms,
  )


def conditioned_decode(name: str, platforms: Platforms) -> export.Exported:
  """The loop that draws targets."""
  program, params, encoded = conditioned_shapes(name)
  steps, row = program.spec.max_steps, array(ROWS, dtype=np.int32)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), ROWS))
  controls = jax.eval_shape(lambda: SamplingOptions(temperature=0.8, top_k=50, top_p=0.9).controls)
  table = array(ROWS, steps, dtype=np.int32)
  inputs = conditioned_decoder.ConditionedInputs(
    encoded.sources, encoded.bias, table, row, keys, controls, ()
  )
  number = array(dtype=np.int32)
  state = conditioned_decoder.ConditionedState(
    number,
    row,
    encoded.empty,
    table,
    array(ROWS, 0, dtype=np.int32),
    array(ROWS, dtype=bool),
    array(ROWS),
  )
  return export_function(
    functools.partial(conditioned_decoder.decode, program),
    params,
    inputs,
    state,
    number,
    platforms=platforms,
  )


def detect(platforms: Platforms) -> export.Exported:
  """Windows of a second through the detector."""
  program = training_program("detector_base")
  config = settings("detector_base")["model"].config.classifier
  return export_function(
    functools.partial(detector.window_log_odds, config),
    program.abstract_state.params,
    array(32, config.features.sample_rate),
    platforms=platforms,
  )


def _programs() -> dict[str, Lower]:
  part = functools.partial
  found: dict[str, Lower] = {}
  for name in TRAINED:
    if name != "codec_base":
      found[f"{name} training step"] = part(training_step, name, 0)
  # Discriminators from the second step on, so that one `TrainingProgram` has steps with and
  # without them.
  later = part(training_step, "codec_base", adversarial_start_step=1)
  found["codec_base training step without discriminators"] = part(later, 0)
  found["codec_base training step"] = part(later, 1)
  found["codec_base training step with fixed codes"] = part(later, 0, codes_fixed_step=0)
  found["codec_small training step"] = part(training_step, "codec_small", 0)
  for name in STAGES:
    found[f"{name} prefill"] = part(prefill, name)
    found[f"{name} repeated prompt"] = part(repeat_prompt, name)
    found[f"{name} decoding loop"] = part(decoding_loop, name)
  found[f"{PARALLEL} pass"] = parallel_encode
  found[f"{PARALLEL} draws of a pass"] = parallel_choose
  for name in CONDITIONED:
    found[f"{name} encode"] = part(conditioned_encode, name)
    found[f"{name} decoding loop"] = part(conditioned_decode, name)
  found["detector_base detect"] = detect
  found["semantic_encoder_xl tokenize"] = tokenize_by_w2v_bert
  for name, kind, shapes in (
    ("codec_base", ResidualCodec, soundstream_shapes),
    ("codec_small", ResidualCodec, frame_rate_shapes),
    ("dac_16khz", dac.DacCodec, part(published_shapes, dac.DacConfig())),
    (
      "encodec_24khz",
      ResidualCodec,
      part(published_shapes, encodec.EncodecConfig()),
    ),
    ("mimi", mimi.MimiCodec, part(published_shapes, mimi.MimiConfig())),
    ("lyra_v2", ResidualCodec, part(published_shapes, lyra.LyraConfig())),
  ):
    found[f"{name} encode"] = part(codec_chunk, "encoder", kind, shapes)
    found[f"{name} decode"] = part(codec_chunk, "decoder", kind, shapes)
  base = hubert.HubertConfig()
  slow = dataclasses.replace(
    base,
    channels=(*base.channels, 512),
    kernels=(*base.kernels, 2),
    strides=(*base.strides, 2),
  )
  found["hubert_base tokenize"] = part(tokenize_by_hubert, base)
  found["mhubert_base_25hz tokenize"] = part(tokenize_by_hubert, slow)
  found["w2v_bert_2 tokenize"] = tokenize_by_w2v_bert_2
  return found


PROGRAMS = _programs()
