"""Codec training: the alternating step of generator and discriminators.

A run has phases that switch on by step number: plain auto-encoding until the encoder is worth
quantizing, then the quantizer (its codebooks start as k-means of the latents seen last), then the
discriminators; and, where asked for, a last phase in which the codes stay as they are and the
decoder alone learns to say them better.

The losses meet at the generated waveform: the gradient of each with respect to the waveform is
scaled to its stated share before it enters the decoder, so that no loss drowns another whatever
its scale. (The fixed weights of the paper, 1 : 100 : 1, depend on sums it does not state; the
balance of gradients is EnCodec's remedy.)

Source: SoundStream, section III; EnCodec, section 3.4 for the balance.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Key

from audiolm_jax.codec import losses
from audiolm_jax.codec.discriminators import DiscriminatorConfig
from audiolm_jax.codec.frame_rate import FrameRateConfig
from audiolm_jax.codec.interface import Autoencoder
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
from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.trainables.adversary import Adversary
from audiolm_jax.training.metrics import Audio
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.trainable import Trainable


@dataclasses.dataclass(frozen=True)
class CodecTrainingConfig:
  """Everything a codec training run needs.

  Attributes:
    model: the codec's architecture and shape.
    discriminators: the judges' shape.
    spectral: scales of the mel loss.
    complex_spectral: scales of the complex-spectrum loss.
    generator_optimizer: for encoder and decoder.
    discriminator_optimizer: for the judges.
    waveform_share, spectral_share, complex_share, adversarial_share, feature_share: of the gradient
      at the generated waveform. Without a share the complex-spectrum loss is not computed.
    commitment_weight: of the commitment loss, in units that batch size and latent size do not move:
      its gradient at the latents has a norm of twice this weight times their root-mean-square
      quantization error. Far below the default the latents outrun the codebooks.
    quantizer_start_step: before it the latents pass unquantized.
    adversarial_start_step: before it the discriminators rest.
    codes_fixed_step: from it on encoder and codebooks stay at their averages and the decoder alone
      learns, so that codes made with this codec stay valid; None for never.
    quantizer_dropout: share of examples whose number of levels is drawn uniformly.
    codebook_decay: of the codebooks' moving averages.
    restart_share: entries used less than this share of the mean use are restarted.
    kmeans_vectors: latents kept for the codebooks' k-means start.
    ema_decay: of the averaged weights that are exported.
  """

  model: SoundStreamConfig | FrameRateConfig = SoundStreamConfig()
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

  @property
  def shares(self) -> dict[str, float]:
    """Each loss that is computed at the generated waveform, and its share of the gradient."""
    shares = {"waveform": self.waveform_share, "spectral": self.spectral_share}
    if self.complex_share:
      shares["complex"] = self.complex_share
    return shares | {"adversarial": self.adversarial_share, "feature": self.feature_share}


@flax.struct.dataclass
class CodecState:
  """All that a codec training run carries from step to step.

  Attributes:
    step: updates tried so far.
    generator: {"encoder", "decoder"} parameters.
    generator_ema: their moving average.
    quantizer: codebooks and their statistics.
    codebooks_ema: moving average of the codebooks over the same horizon as `generator_ema`.
    discriminators: the judges' parameters.
    generator_opt, discriminator_opt: optimizer states.
    recent: [kmeans_vectors, latent], the latents seen last.
    gradient_norms: [losses], moving averages of each loss's gradient norm at the waveform.
  """

  step: jax.Array
  generator: Any
  generator_ema: Any
  quantizer: QuantizerState
  codebooks_ema: jax.Array
  discriminators: Any
  generator_opt: Any
  discriminator_opt: Any
  recent: jax.Array
  gradient_norms: jax.Array


class CodecTrainable(Trainable[CodecState]):
  """The codec as the trainer sees it; a batch is {"waveform": [batch, samples]}."""

  component = "codec"
  next_command = (
    "python -m audiolm_jax.export_bundle --codec_dir={dir} --kmeans=KMEANS --output=TOKENIZERS"
  )

  def __init__(self, config: CodecTrainingConfig):
    self.config = config
    self._model: Autoencoder = config.model
    self._adversary = Adversary(config.discriminators, config.discriminator_optimizer)
    self._generator_optimizer = make_optimizer(config.generator_optimizer)

  def init(self, rng: Key[Array, ""], batch: Mapping[str, Any]) -> CodecState:
    """A fresh state; parameters carry their logical axes."""
    c = self.config
    keys = jax.random.split(rng, 3)
    waveform = jnp.zeros(batch["waveform"].shape, jnp.float32)
    windows = c.spectral.windows + c.discriminators.stft_windows
    longest = max(windows + (c.complex_spectral.windows if c.complex_share else ()))
    if waveform.shape[1] < longest:
      raise ConfigError(
        f"a crop of {waveform.shape[1]} samples is shorter than the longest analysis window, "
        f"{longest}; raise CROP_SECONDS or drop that window"
      )
    generator = self._model.init_params(keys[:2], waveform)
    discriminators, discriminator_opt = self._adversary.init(keys[2], waveform)
    quantizer = init_quantizer(c.model.num_quantizers, c.model.codebook_size, c.model.latent_dim)
    return CodecState(
      step=jnp.zeros((), jnp.int32),
      generator=generator,
      # A copy: the trainer donates the state, and no buffer may be donated twice.
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
    """Whether the discriminators take part in training step `step`, and whether codes are fixed.

    Known when the step is compiled: under `lax.cond` XLA:CPU takes sixty times as long for the
    discriminators' convolutions, and where codes are fixed there is no gradient of the encoder.
    """
    c = self.config
    fixed = c.codes_fixed_step is not None and step >= c.codes_fixed_step
    return step >= c.adversarial_start_step, fixed

  def train_step(
    self,
    state: CodecState,
    batch: Mapping[str, Any],
    rng: Key[Array, ""],
    adversarial: bool,
    codes_fixed: bool,
  ) -> tuple[CodecState, dict[str, jax.Array]]:
    """One update of generator, codebooks and discriminators; skipped where it is not finite."""
    c = self.config
    waveform = _whole_frames(batch["waveform"], c.model.hop_length)
    dropout_key, restart_key, kmeans_key = jax.random.split(rng, 3)
    quantizing = state.step >= c.quantizer_start_step

    old = _with_averaged_encoder(state) if codes_fixed else state
    codes_move = quantizing & (not codes_fixed)
    levels = self._draw_levels(dropout_key, waveform.shape[0])

    latents, to_encoder = jax.vjp(
      lambda encoder: self._model.encode_latents(encoder, waveform), old.generator["encoder"]
    )

    def start(s: CodecState) -> CodecState:
      recent = _remember(s.recent, latents) if c.quantizer_start_step else latents
      quantizer = kmeans_start(
        recent.reshape(-1, c.model.latent_dim),
        c.model.num_quantizers,
        c.model.codebook_size,
        kmeans_key,
      )
      return s.replace(quantizer=quantizer, codebooks_ema=quantizer.codebooks)

    # Not by the step's number alone: the step that should have made them may have been skipped.
    old = lax.cond(quantizing & ~_has_codebooks(state), start, lambda s: s, old)
    if codes_fixed:
      old = old.replace(quantizer=old.quantizer.replace(codebooks=old.codebooks_ema))

    def say(decoder, latents):
      quantized, commitment, quantizer, aux = quantize_train(
        latents,
        old.quantizer,
        levels,
        restart_key,
        decay=c.codebook_decay,
        restart_share=c.restart_share,
      )
      quantized = jnp.where(quantizing, quantized, latents)
      commitment = jnp.where(quantizing, commitment, 0.0)
      return (self._model.decode_latents(decoder, quantized), commitment), (quantizer, aux)

    (generated, commitment), backward, (quantizer, aux) = jax.vjp(
      say, old.generator["decoder"], latents, has_aux=True
    )
    values, gradients = self._reconstruction_gradients(waveform, generated)
    judges = old.discriminators, old.discriminator_opt
    if adversarial:
      judged = self._adversary.play(*judges, waveform, generated)
    else:
      judged = self._adversary.rest(*judges, generated)
    values = jnp.concatenate([values, judged.values])
    gradients = jnp.concatenate([gradients, judged.gradients])
    shares = jnp.array(list(c.shares.values()))
    norms = jnp.sqrt(jnp.sum(jnp.square(gradients), axis=(1, 2)))
    gradient_norms = jnp.where(
      old.gradient_norms > 0, 0.99 * old.gradient_norms + 0.01 * norms, norms
    )
    scale = jnp.where(gradient_norms > 0, shares / (gradient_norms + 1e-12), 0.0)
    cotangent = jnp.einsum("l,lbs->bs", scale, gradients)
    # Of a mean over all latents; the losses above have gradients of norm one over the whole batch.
    commitment_scale = jnp.float32(c.commitment_weight * latents.size**0.5)
    decoder_gradient, latents_gradient = backward((cotangent, commitment_scale))
    if codes_fixed:
      encoder_gradient = jax.tree.map(jnp.zeros_like, old.generator["encoder"])
    else:
      (encoder_gradient,) = to_encoder(latents_gradient)
    generator_gradient = {"encoder": encoder_gradient, "decoder": decoder_gradient}

    updates, generator_opt = self._generator_optimizer.update(
      generator_gradient, old.generator_opt, old.generator
    )
    generator = optax.apply_updates(old.generator, updates)

    quantizer = optax.tree.where(codes_move, quantizer, old.quantizer)
    decay = jnp.minimum(c.ema_decay, (1.0 + old.step) / (10.0 + old.step))
    codebooks_ema = jnp.where(
      aux["restarted"][..., None],
      quantizer.codebooks,
      decay * old.codebooks_ema + (1 - decay) * quantizer.codebooks,
    )
    generator_ema = jax.tree.map(
      lambda e, g: decay * e + (1 - decay) * g, old.generator_ema, generator
    )
    if codes_fixed:
      generator_ema["encoder"] = old.generator_ema["encoder"]
    new = CodecState(
      step=old.step,
      generator=generator,
      generator_ema=generator_ema,
      quantizer=quantizer,
      codebooks_ema=jnp.where(codes_move, codebooks_ema, old.codebooks_ema),
      discriminators=judged.params,
      generator_opt=generator_opt,
      discriminator_opt=judged.optimizer,
      recent=jnp.where(quantizing, old.recent, _remember(old.recent, latents)),
      gradient_norms=gradient_norms,
    )
    generator_norm = optax.tree.norm(generator_gradient)
    # One sum is non-finite as soon as any loss or gradient is.
    finite = jnp.isfinite(
      jnp.sum(values) + generator_norm + judged.loss + judged.gradient_norm + commitment
    )
    new = optax.tree.where(finite, new, state)
    new = new.replace(step=state.step + 1)
    metrics = dict(zip(c.shares, values, strict=True))
    metrics |= {
      "loss": values[0] + values[1],
      "commitment": commitment,
      "discriminator": judged.loss,
      "gradient_norm": generator_norm,
      "discriminator_gradient_norm": judged.gradient_norm,
      "perplexity_mean": jnp.mean(aux["perplexity"]),
      "perplexity_min": jnp.min(aux["perplexity"]),
      "latent_scale": jnp.sqrt(jnp.mean(jnp.square(latents))),
      "skipped": 1.0 - finite.astype(jnp.float32),
    }
    for level in range(c.model.num_quantizers):
      metrics[f"perplexity_{level}"] = aux["perplexity"][level]
      metrics[f"dead_codes_{level}"] = aux["dead"][level].astype(jnp.float32)
    return new, metrics

  def component_params(self, component: Any, what: str) -> dict[str, Any]:
    """Returns the parameters of a codec with this configuration; see the base class."""
    if type(component.config) is not type(self.config.model):
      raise ConfigError(
        f"{what} has a {type(component.config).__name__}, and the run trains a "
        f"{type(self.config.model).__name__}"
      )
    configs.check_equal(component.config, self.config.model, what)
    return component.params

  def with_params(self, state: CodecState, params: Any) -> CodecState:
    """A fresh state that begins where an inference codec's parameters left off."""
    c = self.config
    generator = {name: params[name] for name in ("encoder", "decoder")}
    codebooks = params["codebooks"]
    return state.replace(
      generator=generator,
      generator_ema=jax.tree.map(jnp.copy, generator),
      quantizer=quantizer_of(codebooks, c.kmeans_vectors / c.model.codebook_size),
      codebooks_ema=jnp.copy(codebooks),
    )

  def eval_step(self, state: CodecState, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Losses of the averaged weights at all levels; "weight" is the number of examples."""
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

  def summaries(self, state: CodecState, batch: Mapping[str, Any]) -> dict[str, Audio]:
    """Audio to listen to: the original and its reconstruction, each [batch, samples]."""
    waveform = _whole_frames(batch["waveform"], self.config.model.hop_length)
    rate = self.config.model.sample_rate
    return {
      "audio/original": Audio(waveform, rate),
      "audio/reconstruction": Audio(self.reconstruct(state, waveform), rate),
    }

  def amounts(self, batch: Mapping[str, Any]) -> dict[str, float]:
    """How many seconds of audio a batch holds, without padding where lengths are given."""
    samples = np.sum(batch["length"]) if "length" in batch else np.size(batch["waveform"])
    return {"audio_seconds": float(samples) / self.config.model.sample_rate}

  def flops_per_step(self, batch: Mapping[str, Any], step: int) -> float:
    """Of one update: encoder and decoder both ways, quantizer forwards, and the discriminators.

    These hear the clip and its reconstruction for their own sake, with a backward pass to the
    parameters, and the reconstruction again for the generator's, with two to the waveform.
    The spectral loss is left out.
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
    """Sentences on codebooks hardly used or left behind, and on discriminators that have won."""
    c, found = self.config, []
    for level in range(c.model.num_quantizers):
      perplexity = metrics[f"perplexity_{level}"]
      if 0 < perplexity < 0.05 * c.model.codebook_size:
        found.append(
          f"codebook {level} uses few of its {c.model.codebook_size} entries (perplexity "
          f"{perplexity:.1f}); look at latent_scale and at the commitment loss"
        )
    # The mean error left over by a level is as large as the latents only where codebooks miss them.
    if metrics["commitment"] > metrics["latent_scale"] ** 2:
      found.append(
        f"the latents outrun the codebooks (error {metrics['commitment']:.3g} of a power of "
        f"{metrics['latent_scale'] ** 2:.3g}); raise commitment_weight or lower "
        "generator_optimizer.learning_rate"
      )
    if metrics["adversarial"] and metrics["discriminator"] < 0.05:
      found.append(
        f"the discriminators tell every clip apart (loss {metrics['discriminator']:.3f}) and teach "
        "the codec little; lower discriminator_optimizer.learning_rate"
      )
    return found

  def reconstruct(
    self, state: CodecState, waveform: Float[Array, "batch samples"]
  ) -> Float[Array, "batch samples"]:
    """Through the averaged encoder, codebooks and decoder."""
    latents = self._model.encode_latents(state.generator_ema["encoder"], waveform)
    codes = residual_quantize(latents, state.codebooks_ema)
    quantized = dequantize(codes, state.codebooks_ema)
    latents = jnp.where(_has_codebooks(state), quantized, latents)
    return self._model.decode_latents(state.generator_ema["decoder"], latents)

  def inference_params(self, state: CodecState) -> dict[str, Any]:
    """What an inference codec takes: averaged encoder, decoder and codebooks."""
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

  def _reconstruction_gradients(self, waveform: Array, generated: Array) -> tuple[Array, Array]:
    """Values of the reconstruction losses, and their gradients [losses, batch, samples]."""
    losses_of = [_waveform_loss, self._spectral_loss]
    if self.config.complex_share:
      losses_of.append(self._complex_loss)
    values, gradients = zip(
      *(
        jax.value_and_grad(lambda g, loss=loss: loss(waveform, g))(generated) for loss in losses_of
      ),
      strict=True,
    )
    return jnp.stack(values), jnp.stack(gradients)

  def _complex_loss(self, waveform: Array, generated: Array) -> Array:
    return losses.complex_spectral_loss(waveform, generated, self.config.complex_spectral)

  def _spectral_loss(self, waveform: Array, generated: Array) -> Array:
    return losses.spectral_loss(waveform, generated, self.config.spectral)


def _waveform_loss(waveform: Array, generated: Array) -> Array:
  return jnp.mean(jnp.abs(waveform - generated))


def _whole_frames(waveform: Array, hop_length: int) -> Array:
  samples = waveform.shape[1] // hop_length * hop_length
  return jnp.asarray(waveform[:, :samples], jnp.float32)


def _with_averaged_encoder(state: CodecState) -> CodecState:
  return state.replace(
    generator={**state.generator, "encoder": state.generator_ema["encoder"]},
  )


def _has_codebooks(state: CodecState) -> Array:
  return jnp.any(state.quantizer.counts > 0)


def _remember(recent: Array, latents: Array) -> Array:
  """The newest latents in front, the oldest dropped."""
  new = lax.stop_gradient(latents).reshape(-1, latents.shape[-1])[: recent.shape[0]]
  return jnp.concatenate([new, recent[: recent.shape[0] - new.shape[0]]])
