"""A classifier of speakers that is trained on windows of one second."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import meta
from jaxtyping import Float

from audiolm_jax.core import modules
from audiolm_jax.core.errors import DataError
from audiolm_jax.core.keys import new_key
from audiolm_jax.core.modules import Params
from audiolm_jax.detection.classifier import Classifier, ClassifierConfig, tiny_config
from audiolm_jax.detection.windows import WINDOW_SECONDS, in_batches, windows
from audiolm_jax.training.gradient_step import gradient_step
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.train_state import new_train_state

Waveform = Float[np.ndarray, "_"]  # `_` has no fixed size, because clips differ in length


@dataclasses.dataclass(frozen=True)
class SpeakerClassifier:
  """A trained speaker classifier.

  Attributes:
    speakers: names of the speakers in the order of the classes.
    config: configuration of the network.
    params: parameters of the network.
  """

  speakers: tuple[str, ...]
  config: ClassifierConfig
  params: Params

  def identify(self, waveform: Waveform) -> str:
    """Returns the speaker with the highest mean log probability over windows of one second.

    Silent windows are ignored, unless all windows are silent.

    Args:
      waveform: samples at the classifier's sample rate.

    Raises:
      AudioError: the waveform is shorter than 0.1 s.
    """
    rate = self.config.features.sample_rate
    found = list(windows([waveform], rate, "the clip"))
    chosen = [w.waveform for w in found if not w.is_silent] or [w.waveform for w in found]
    run = functools.partial(_log_probabilities, self.config, self.params)
    return self.speakers[int(np.argmax(in_batches(run, np.stack(chosen)).sum(0)))]


def fit_speaker_classifier(
  clips: Sequence[Waveform],
  speakers: Sequence[str],
  *,
  config: ClassifierConfig | None = None,
  steps: int = 2_000,
  batch_size: int = 32,
  learning_rate: float = 2e-3,
  seed: int = 0,
) -> SpeakerClassifier:
  """Trains a classifier on random windows of one second, equally often from each speaker.

  Args:
    clips: clips, encoded and decoded by the codec, at the classifier's sample rate. Clips that are
      shorter than one second are ignored.
    speakers: speaker of each clip.
    config: configuration of the network; its number of classes is replaced by the number of
      speakers. None for `tiny_config`.
    steps: number of training steps.
    batch_size: windows per step.
    learning_rate: peak learning rate.
    seed: seed of the parameters and of the batches.

  Raises:
    DataError: there are fewer than two speakers, or a speaker has no clip of one second.
  """
  names = tuple(sorted(set(speakers)))
  if len(names) < 2:
    raise DataError(f"{len(names)} speakers are given; at least 2 are needed")
  config = dataclasses.replace(config or tiny_config(), num_classes=len(names))
  window = round(WINDOW_SECONDS * config.features.sample_rate)
  by_speaker: list[list[Waveform]] = [[] for _ in names]
  for clip, speaker in zip(clips, speakers, strict=True):
    if len(clip) >= window:
      by_speaker[names.index(speaker)].append(clip)
  if not all(by_speaker):
    missing = next(name for name, own in zip(names, by_speaker, strict=True) if not own)
    raise DataError(
      f"speaker {missing} has no clip of 1 s or more; remove the speaker from the data"
    )
  model = Classifier(config)
  optimizer = make_optimizer(
    OptimizerConfig(
      name="adamw",
      learning_rate=learning_rate,
      schedule="cosine",
      warmup_steps=min(100, steps // 2),
      decay_steps=steps,
      weight_decay=0.01,
      clip_norm=1.0,
    )
  )

  def loss(params, batch, rng):
    del rng
    logits = modules.apply(model, params, batch["waveform"])
    value = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
    return value, {"loss": value, "weight": jnp.float32(len(batch["label"]))}

  key = new_key(seed)
  params = meta.unbox(model.init(key, jnp.zeros((1, window))))["params"]
  state = new_train_state(params, optimizer, ema_decay=0.99)
  step = jax.jit(
    lambda state, batch: gradient_step(loss, state, batch, key, optimizer, ema_decay=0.99)
  )
  rng = np.random.default_rng(seed)
  for _ in range(steps):
    labels = rng.integers(0, len(names), batch_size)
    rows = [_random_second(by_speaker[label], window, rng) for label in labels]
    state, _ = step(state, {"waveform": np.stack(rows), "label": labels.astype(np.int32)})
  return SpeakerClassifier(names, config, jax.device_get(state.ema_params))


def _random_second(clips: Sequence[Waveform], window: int, rng: np.random.Generator) -> Waveform:
  clip = clips[int(rng.integers(len(clips)))]
  start = rng.integers(len(clip) - window + 1)
  gain = 10.0 ** (rng.uniform(-10.0, 5.0) / 20.0)
  return np.clip(clip[start : start + window] * gain, -1.0, 1.0).astype(np.float32)


def _log_probabilities_fn(
  config: ClassifierConfig, params: Params, waveforms: jax.Array
) -> jax.Array:
  logits = modules.apply(Classifier(config), params, waveforms)
  return jax.nn.log_softmax(logits)


_log_probabilities: Callable[..., jax.Array] = jax.jit(_log_probabilities_fn, static_argnums=0)
