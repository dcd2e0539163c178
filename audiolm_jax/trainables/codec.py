"""Training of a codec with adversarial losses: one step updates codec and discriminators.

A run can have four phases, which start at configured steps. First, encoder and decoder are trained
without quantization. Then the quantizer is trained too; its codebooks are initialised with k-means
centroids of recent latents. Then the discriminators are trained too. In an optional last phase, the
codes are fixed and only the decoder and the discriminators are trained.

The losses are balanced at the generated waveform: the gradient of each loss with respect to the
waveform is scaled to a configured norm before the backward pass of the decoder. The scale of a loss
therefore has no effect. The SoundStream paper uses fixed weights, 1 : 100 : 1, but does not specify
the normalisation of the losses, so the gradients are balanced as in EnCodec.

Source: SoundStream, section III; EnCodec, section 3.4 for the balance.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Float, Key, PyTree

from audiolm_jax.codec import losses, registry
from audiolm_jax.codec.chunked_codec import ChunkedCodec
from audiolm_jax.codec.discriminators import DiscriminatorConfig
from audiolm_jax.codec.quantizer import (
  QuantizerState,
  dequantize,
  init_quantizer,
  kmeans_start,
  quantize_train,
  quantizer_flops,
  quantizer_of,
  residual_quantize,
)
from audiolm_jax.codec.residual_codec import TrainableConfig
from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.core import configs
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Batch, Params, ShapedBatch
from audiolm_jax.trainables.adversary import Adversary
from audiolm_jax.trainables.codec_state import (
  CodecState,
  has_codebooks,
  remember,
  with_averaged_encoder,
)
from audiolm_jax.trainables.gradient_balance import WaveformLosses, balance_gradients
from audiolm_jax.training.metrics import Audio
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.train_state import apply_if_finite, apply_updates, update_ema
from audiolm_jax.training.trainable import Trainable

if TYPE_CHECKING:
  from _typeshed import DataclassInstance
else:
  DataclassInstance = object  # a protocol, which only type checkers know


@dataclasses.dataclass(frozen=True)
class CodecTrainingConfig(configs.DependentTypes):
  """Configuration of a codec training run.

  Attributes:
    model: architecture and sizes of the codec, a configuration class in `codec.registry`.
    discriminators: sizes of the discriminators.
    spectral: scales of the mel loss.
    complex_spectral: scales of the complex-spectrum loss.
    generator_optimizer: optimizer of encoder and decoder.
    discriminator_optimizer: optimizer of the discriminators.
    waveform_share: norm to which the gradient of the waveform loss at the generated waveform is
      scaled.
    spectral_share: norm for the gradient of the mel loss.
    complex_share: norm for the gradient of the complex-spectrum loss; with 0, this loss is not
      computed.
    adversarial_share: norm for the gradient of the adversarial loss.
    feature_share: norm for the gradient of the feature matching loss.
    commitment_weight: weight of the commitment loss, independent of batch size and latent size. The
      gradient of the weighted loss at the latents has a norm of twice this weight times the
      root-mean-square quantization error, averaged over levels. With values far below the default,
      the codebooks cannot follow the latents.
    quantizer_start_step: the first step with quantized latents.
    adversarial_start_step: the first step that trains the discriminators.
    codes_fixed_step: first step with fixed encoder and codebooks, which are set to their moving
      averages. From this step on, only the decoder and the discriminators are trained, so existing
      tokens remain valid. None to never fix the codes.
    quantizer_dropout: share of the examples whose number of levels is drawn uniformly; all other
      examples use all levels.
    codebook_decay: decay of the moving averages that define the codebooks.
    restart_share: an entry whose use is below this share of the mean use is replaced by a vector of
      the batch.
    kmeans_vectors: number of recent latents that initialise the codebooks. If
      `quantizer_start_step` is 0, the latents of the first batch are used instead.
    ema_decay: decay of the averaged parameters, which are exported.
  """

  model: TrainableConfig = SoundStreamConfig()
  discriminators: DiscriminatorConfig = DiscriminatorConfig()
  spectral: losses.SpectralLossConfig = losses.SpectralLossConfig()
  complex_spectral: losses.ComplexLossConfig = losses.ComplexLossConfig()
  generator_optimizer: OptimizerConfig = OptimizerConfig(
    name="adam", learning_rate=3e-4, b1=0.5, b2=0.9, clip_norm=10.0
  )
  discriminator_optimizer: OptimizerConfig = OptimizerConfig(
    name="adam", learning_rate=3e-4, b1=0.5, b2=0.9, clip_norm=10.0
  )
  waveform_share: float = 0.5
  spectral_share: float = 2.0
  complex_share: float = 0.0
  adversarial_share: float = 1.0
  feature_share: float = 2.0
  commitment_weight: float = 0.6
  quantizer_start_step: int = 0
  adversarial_start_step: int = 0
  codes_fixed_step: int | None = None
  quantizer_dropout: float = 1.0
  codebook_decay: float = 0.99
  restart_share: float = 0.1
  kmeans_vectors: int = 8192
  ema_decay: float = 0.999

  @classmethod
  def field_types(cls, values: Json) -> dict[str, type]:
    """Returns the type of the codec's configuration, for `configs.from_dict`."""
    return {"model": registry.config_class(values["model"])} if "model" in values else {}

  @property
  def shares(self) -> dict[str, float]:
    """The losses at the generated waveform, and the norms to which their gradients are scaled."""
    shares = {"waveform": self.waveform_share, "spectral": self.spectral_share}
    if self.complex_share:
      shares["complex"] = self.complex_share
    return shares | {"adversarial": self.adversarial_share, "feature": self.feature_share}


class CodecTrainable(Trainable[CodecState]):
  """The trainable codec; a batch is {"waveform": [batch, samples]}."""

  component = "codec"
  next_command = (
    "python -m audiolm_jax.export_bundle --codec_dir={dir} --kmeans=KMEANS --output=TOKENIZERS"
  )

  def __init__(self, config: CodecTrainingConfig):
    self.config = config
    self._model = config.model
    self._adversary = Adversary(config.discriminators, config.discriminator_optimizer)
    self._generator_optimizer = make_optimizer(config.generator_optimizer)

  def init(self, rng: Key[Array, ""], batch: Batch) -> CodecState:
    """Returns a new state; the parameters are boxed with logical axis names.

    Raises:
      ConfigError: the waveforms are shorter than the longest window of a loss or discriminator.
    """
    c = self.config
    keys = jax.random.split(rng, 3)
    waveform = jnp.zeros(batch["waveform"].shape, jnp.float32)
    windows = c.spectral.windows + c.discriminators.stft_windows
    longest = max(windows + (c.complex_spectral.windows if c.complex_share else ()))
    if waveform.shape[1] < longest:
      raise ConfigError(
        f"a crop of {waveform.shape[1]} samples is shorter than the longest analysis window, "
        f"{longest}; raise CROP_SECONDS or remove that window"
      )
    generator = self._model.init_params(keys[:2], waveform)
    discriminators, discriminator_opt = self._adversary.init(keys[2], waveform)
    quantizer = init_quantizer(c.model.num_quantizers, c.model.codebook_size, c.model.latent_dim)
    return CodecState(
      step=jnp.zeros((), jnp.int32),
      generator=generator,
      # A copy, because the trainer donates the state and a buffer can be donated only once.
      generator_ema=jax.tree.map(jnp.copy, generator),
      quantizer=quantizer,
      codebooks_ema=jnp.zeros_like(quantizer.codebooks),
      discriminators=discriminators,
      generator_opt=self._generator_optimizer.init(generator),
      discriminator_opt=discriminator_opt,
      recent=jnp.zeros((c.kmeans_vectors, c.model.latent_dim)),
      gradient_norms=jnp.zeros((len(c.shares),)),
    )

  def parts(self, step: int) -> tuple[bool, bool]:
    """Returns whether training step `step` trains the discriminators, and whether codes are fixed.

    Both values are static in the compiled step. Under `lax.cond`, XLA:CPU takes sixty times as long
    for the convolutions of the discriminators. With fixed codes, the compiled step contains no
    backward pass of the encoder.
    """
    c = self.config
    fixed = c.codes_fixed_step is not None and step >= c.codes_fixed_step
    return step >= c.adversarial_start_step, fixed

  def train_step(
    self,
    state: CodecState,
    batch: Batch,
    rng: Key[Array, ""],
    *parts: bool,
  ) -> tuple[CodecState, dict[str, jax.Array]]:
    """Updates generator, codebooks and discriminators once; see the base class for arguments."""
    adversarial, codes_fixed = parts
    waveform = _whole_frames(batch["waveform"], self.config.model.hop_length)
    level_key, restart_key, kmeans_key = jax.random.split(rng, 3)
    levels = self._draw_levels(level_key, waveform.shape[0])
    old = with_averaged_encoder(state) if codes_fixed else state
    latents, to_encoder = jax.vjp(
      lambda encoder: self._model.encode_latents(encoder, waveform), old.generator["encoder"]
    )
    old = self._with_codebooks(old, latents, kmeans_key)
    if codes_fixed:
      averaged = dataclasses.replace(old.quantizer, codebooks=old.codebooks_ema)
      old = dataclasses.replace(old, quantizer=averaged)
    quantizing = state.step >= self.config.quantizer_start_step

    def decode(
      decoder: Params, latents: Array
    ) -> tuple[tuple[Array, Array], tuple[QuantizerState, dict[str, Array]]]:
      quantized, commitment, quantizer, statistics = self._quantize(
        old.quantizer, latents, levels, restart_key
      )
      quantized = jnp.where(quantizing, quantized, latents)
      commitment = jnp.where(quantizing, commitment, 0.0)
      return (self._model.decode_latents(decoder, quantized), commitment), (quantizer, statistics)

    (generated, commitment), to_decoder, (quantizer, statistics) = jax.vjp(
      decode, old.generator["decoder"], latents, has_aux=True
    )
    found = self._waveform_losses(waveform, generated)
    update = self._adversary.update(
      old.discriminators, old.discriminator_opt, waveform, generated, adversarial
    )
    values = jnp.concatenate([found.values, update.values])
    cotangent, gradient_norms = balance_gradients(
      jnp.concatenate([found.gradients, update.gradients]),
      old.gradient_norms,
      jnp.array(list(self.config.shares.values())),
    )
    # The commitment loss is a mean over all latents, so the norm of its gradient depends on the
    # batch size. The norms of the balanced gradients do not.
    commitment_scale = jnp.float32(self.config.commitment_weight * latents.size**0.5)
    decoder_gradient, latents_gradient = to_decoder((cotangent, commitment_scale))
    if codes_fixed:
      encoder_gradient = jax.tree.map(jnp.zeros_like, old.generator["encoder"])
    else:
      (encoder_gradient,) = to_encoder(latents_gradient)
    gradient = {"encoder": encoder_gradient, "decoder": decoder_gradient}
    gradient_norm = optax.tree.norm(gradient)

    new = self._with_generator(old, gradient, codes_fixed)
    new = self._with_quantizer(new, quantizer, statistics, quantizing & (not codes_fixed))
    new = dataclasses.replace(
      new,
      step=state.step + 1,
      discriminators=update.params,
      discriminator_opt=update.optimizer,
      recent=jnp.where(quantizing, old.recent, remember(old.recent, latents)),
      gradient_norms=gradient_norms,
    )
    # The sums are not finite if any loss or gradient is not finite.
    total = jnp.sum(values) + update.loss + commitment
    new, skipped = apply_if_finite(state, new, total, gradient_norm + update.gradient_norm)
    metrics = dict(zip(self.config.shares, values, strict=True)) | {
      "loss": values[0] + values[1],
      "commitment": commitment,
      "discriminator": update.loss,
      "gradient_norm": gradient_norm,
      "discriminator_gradient_norm": update.gradient_norm,
      "latent_scale": jnp.sqrt(jnp.mean(jnp.square(latents))),
      "skipped": skipped,
    }
    return new, metrics | _codebook_metrics(statistics)

  def _with_codebooks(self, state: CodecState, latents: Array, rng: Key[Array, ""]) -> CodecState:
    """Returns the state; at the first step that quantizes, k-means initialises the codebooks."""
    c = self.config

    def start(s: CodecState) -> CodecState:
      recent = remember(s.recent, latents) if c.quantizer_start_step else latents
      quantizer = kmeans_start(
        recent.reshape(-1, c.model.latent_dim), c.model.num_quantizers, c.model.codebook_size, rng
      )
      return dataclasses.replace(s, quantizer=quantizer, codebooks_ema=quantizer.codebooks)

    # The step number alone is not sufficient, because the update at this step may be skipped.
    first = (state.step >= c.quantizer_start_step) & ~has_codebooks(state)
    return lax.cond(first, start, lambda s: s, state)

  def _quantize(
    self, quantizer: QuantizerState, latents: Array, levels: Array, rng: Key[Array, ""]
  ) -> tuple[Array, Array, QuantizerState, dict[str, Array]]:
    return quantize_train(
      latents,
      quantizer,
      levels,
      rng,
      decay=self.config.codebook_decay,
      restart_share=self.config.restart_share,
    )

  def _with_generator(self, state: CodecState, gradient: PyTree, codes_fixed: bool) -> CodecState:
    """Returns the state with updated encoder, decoder and their averages."""
    updates, optimizer = self._generator_optimizer.update(
      gradient, state.generator_opt, state.generator
    )
    generator = apply_updates(state.generator, updates)
    averages = update_ema(state.generator_ema, generator, state.step, self.config.ema_decay)
    if codes_fixed:
      averages["encoder"] = state.generator_ema["encoder"]
    return dataclasses.replace(
      state, generator=generator, generator_ema=averages, generator_opt=optimizer
    )

  def _with_quantizer(
    self,
    state: CodecState,
    quantizer: QuantizerState,
    statistics: dict[str, Array],
    learns: Array,
  ) -> CodecState:
    """Returns the state with updated codebooks and their averages, if `learns` is True.

    The averages of restarted entries are set to the new entries.
    """
    averages = update_ema(
      state.codebooks_ema, quantizer.codebooks, state.step, self.config.ema_decay
    )
    averages = jnp.where(statistics["restarted"][..., None], quantizer.codebooks, averages)
    return dataclasses.replace(
      state,
      quantizer=optax.tree.where(learns, quantizer, state.quantizer),
      codebooks_ema=jnp.where(learns, averages, state.codebooks_ema),
    )

  def component_params(self, component: ChunkedCodec, what: str) -> Params:
    """Checks the configuration of a codec and returns its parameters; see the base class."""
    self._check_model(component.config, what)
    return component.params

  def run_params(self, config: CodecTrainingConfig, params: Params, what: str) -> Params:
    """Checks the configuration of a codec run and returns its parameters; see the base class.

    The discriminators and the statistics of the quantizer are not included.
    """
    self._check_model(config.model, what)
    return params

  def _check_model(self, model: DataclassInstance, what: str) -> None:
    if type(model) is not type(self.config.model):
      raise ConfigError(
        f"{what} has a {type(model).__name__}, but the run trains a "
        f"{type(self.config.model).__name__}; choose another one"
      )
    configs.check_equal(model, self.config.model, what)

  def with_params(self, state: CodecState, params: Params) -> CodecState:
    """Returns a new state with the parameters of an inference codec.

    Args:
      state: a new state; provides the discriminators and the optimizers.
      params: {"encoder", "decoder", "codebooks"}.
    """
    c = self.config
    generator = {name: params[name] for name in ("encoder", "decoder")}
    codebooks = params["codebooks"]
    return dataclasses.replace(
      state,
      generator=generator,
      generator_ema=jax.tree.map(jnp.copy, generator),
      quantizer=quantizer_of(codebooks, c.kmeans_vectors / c.model.codebook_size),
      codebooks_ema=jnp.copy(codebooks),
    )

  def eval_step(self, state: CodecState, batch: Batch) -> dict[str, jax.Array]:
    """Returns losses of the averaged parameters, with all levels; "weight" is the batch size."""
    waveform = _whole_frames(batch["waveform"], self.config.model.hop_length)
    generated = self.reconstruct(state, waveform)
    waveform_loss = _waveform_loss(waveform, generated)
    spectral = self._spectral_loss(waveform, generated)
    return {
      "loss": waveform_loss + spectral,
      "waveform": waveform_loss,
      "spectral": spectral,
      "weight": jnp.float32(waveform.shape[0]),
    }

  def summaries(self, state: CodecState, batch: Batch) -> dict[str, Audio]:
    """Returns the original waveforms and their reconstructions, each [batch, samples]."""
    waveform = _whole_frames(batch["waveform"], self.config.model.hop_length)
    rate = self.config.model.sample_rate
    return {
      "audio/original": Audio(waveform, rate),
      "audio/reconstruction": Audio(self.reconstruct(state, waveform), rate),
    }

  def amounts(self, batch: Batch) -> dict[str, float]:
    """Returns the seconds of audio in a batch, without padding if the batch has "length"."""
    samples = np.sum(batch["length"]) if "length" in batch else np.size(batch["waveform"])
    return {"audio_seconds": float(samples) / self.config.model.sample_rate}

  def flops_per_step(self, batch: ShapedBatch, step: int) -> float:
    """Returns the floating-point operations of encoder, decoder, quantizer and discriminators.

    The quantizer has no backward pass. The discriminators process the clip and its reconstruction
    with a backward pass to their parameters. They process the reconstruction once more, with two
    backward passes to the waveform. The operations of the spectral losses are not counted.
    """
    c = self.config
    rows, samples = batch["waveform"].shape
    samples = samples // c.model.hop_length * c.model.hop_length
    flops = 3 * (c.model.encoder_flops(samples) + c.model.decoder_flops(samples))
    flops += quantizer_flops(
      samples // c.model.hop_length,
      c.model.num_quantizers,
      c.model.codebook_size,
      c.model.latent_dim,
    )
    adversarial, codes_fixed = self.parts(step)
    if codes_fixed:
      flops -= 2 * c.model.encoder_flops(samples)
    if adversarial:
      flops += (2 + 4 + 1 + 2) * c.discriminators.forward_flops(samples)
    return rows * flops

  def warnings(self, metrics: Mapping[str, float]) -> list[str]:
    """Returns warnings about codebooks and discriminators.

    There is a warning if few entries of a codebook are used, if the codebooks are too far from the
    latents, or if the discriminators classify all clips correctly.
    """
    c, found = self.config, []
    for level in range(c.model.num_quantizers):
      perplexity = metrics[f"perplexity_{level}"]
      if 0 < perplexity < 0.05 * c.model.codebook_size:
        found.append(
          f"codebook {level} uses few of its {c.model.codebook_size} entries (perplexity "
          f"{perplexity:.1f}); check latent_scale and the commitment loss"
        )
    # The mean error of a level exceeds the power of the latents only if the codebooks do not fit.
    if metrics["commitment"] > metrics["latent_scale"] ** 2:
      found.append(
        f"the codebooks cannot follow the latents (error {metrics['commitment']:.3g} at a power of "
        f"{metrics['latent_scale'] ** 2:.3g}); raise commitment_weight or lower "
        "generator_optimizer.learning_rate"
      )
    if metrics["adversarial"] and metrics["discriminator"] < 0.05:
      found.append(
        f"the discriminators separate all clips (loss {metrics['discriminator']:.3f}) and so train "
        "the codec little; lower discriminator_optimizer.learning_rate"
      )
    return found

  def reconstruct(
    self, state: CodecState, waveform: Float[Array, "batch samples"]
  ) -> Float[Array, "batch samples"]:
    """Reconstructs waveforms with the averaged encoder, codebooks (if initialised) and decoder."""
    latents = self._model.encode_latents(state.generator_ema["encoder"], waveform)
    codes = residual_quantize(latents, state.codebooks_ema)
    quantized = dequantize(codes, state.codebooks_ema)
    latents = jnp.where(has_codebooks(state), quantized, latents)
    return self._model.decode_latents(state.generator_ema["decoder"], latents)

  def inference_params(self, state: CodecState) -> Params:
    """Returns the parameters of an inference codec: averaged encoder, decoder and codebooks."""
    return {
      "encoder": state.generator_ema["encoder"],
      "decoder": state.generator_ema["decoder"],
      "codebooks": state.codebooks_ema,
    }

  def _draw_levels(self, rng: Key[Array, ""], batch: int) -> Array:
    all_levels = self.config.model.num_quantizers
    choose, draw = jax.random.split(rng)
    drawn = jax.random.randint(draw, (batch,), 1, all_levels + 1)
    dropped = jax.random.uniform(choose, (batch,)) < self.config.quantizer_dropout
    return jnp.where(dropped, drawn, all_levels)

  def _waveform_losses(self, waveform: Array, generated: Array) -> WaveformLosses:
    """Returns the reconstruction losses and their gradients at the generated waveform."""
    losses_of = [_waveform_loss, self._spectral_loss]
    if self.config.complex_share:
      losses_of.append(self._complex_loss)
    found = [
      jax.value_and_grad(lambda g, loss=loss: loss(waveform, g))(generated) for loss in losses_of
    ]
    values, gradients = zip(*found, strict=True)
    return WaveformLosses(jnp.stack(values), jnp.stack(gradients))

  def _complex_loss(self, waveform: Array, generated: Array) -> Array:
    return losses.complex_spectral_loss(waveform, generated, self.config.complex_spectral)

  def _spectral_loss(self, waveform: Array, generated: Array) -> Array:
    return losses.spectral_loss(waveform, generated, self.config.spectral)


def _codebook_metrics(statistics: dict[str, Array]) -> dict[str, Array]:
  perplexity, dead = statistics["perplexity"], statistics["dead"]
  metrics = {"perplexity_mean": jnp.mean(perplexity), "perplexity_min": jnp.min(perplexity)}
  for level in range(len(perplexity)):
    metrics[f"perplexity_{level}"] = perplexity[level]
    metrics[f"dead_codes_{level}"] = dead[level].astype(jnp.float32)
  return metrics


def _waveform_loss(waveform: Array, generated: Array) -> Array:
  return jnp.mean(jnp.abs(waveform - generated))


def _whole_frames(waveform: Array | np.ndarray, hop_length: int) -> Array:
  samples = waveform.shape[1] // hop_length * hop_length
  return jnp.asarray(waveform[:, :samples], jnp.float32)
