"""The registry of codecs: a stored configuration has the class that wrote it."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.bundles import components
from audiolm_jax.codec import registry
from audiolm_jax.codec.frame_rate import FrameRateConfig
from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.trainables.codec import CodecTrainable, CodecTrainingConfig

from .conftest import FRAME_RATE


@dataclasses.dataclass(frozen=True)
class ThirdConfig(FrameRateConfig):
  """A codec that a test adds."""

  tilt: float = 0.5


@dataclasses.dataclass(frozen=True)
class TwinConfig(FrameRateConfig):
  """A codec that has the fields of another one."""


@pytest.fixture
def third(monkeypatch):
  monkeypatch.setitem(registry.CODECS, "third", f"{__name__}:ThirdConfig")
  return ThirdConfig(**vars(FRAME_RATE))


def restored(config):
  return configs.from_dict(CodecTrainingConfig, configs.to_dict(config))


def test_a_stored_configuration_has_its_class(third):
  for model in (SoundStreamConfig(), FRAME_RATE, third):
    config = CodecTrainingConfig(model=model, complex_share=1.0)
    assert restored(config) == config and type(restored(config).model) is type(model)


def test_a_configuration_of_an_older_version_lacks_fields():
  values = configs.to_dict(SoundStreamConfig(encoder_channels=4))
  del values["search_width"]
  config = configs.from_dict(CodecTrainingConfig, {"model": values})
  assert config.model == SoundStreamConfig(encoder_channels=4)


def test_a_third_codec_is_trained(third):
  trainable = CodecTrainable(CodecTrainingConfig(model=third, complex_share=1.0))
  batch = {"waveform": np.zeros((2, 4_800), np.float32)}
  state = meta.unbox(jax.eval_shape(trainable.init, jax.random.key(0), batch))

  def step(state):
    return trainable.train_step(state, batch, jax.random.key(1), False, False)

  _, metrics = jax.eval_shape(step, state)
  assert metrics["loss"].shape == ()


def test_unknown_and_equal_fields_are_refused(monkeypatch):
  with pytest.raises(ConfigError, match=r"no codec has the fields \['color'\]"):
    registry.config_class({"color": 1})
  monkeypatch.setitem(registry.CODECS, "twin", f"{__name__}:TwinConfig")
  with pytest.raises(ConfigError, match="FrameRateConfig and TwinConfig have the same fields"):
    registry.config_class(configs.to_dict(FRAME_RATE))


def test_bundles_can_contain_every_codec_of_the_registry():
  for kind, home in registry.CODECS.items():
    assert components.TOKENIZERS["codec"][kind][0] == home
