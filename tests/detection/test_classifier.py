import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.detection.classifier import Classifier, ClassifierConfig, tiny_config
from audiolm_jax.semantic.features import LogMelConfig
from tests.conftest import melody


@pytest.mark.parametrize(("config", "size"), [(ClassifierConfig(), 3.5e6), (tiny_config(), 0.22e6)])
def test_classifiers_have_the_sizes_their_docstrings_state(config, size):
  shapes = jax.eval_shape(Classifier(config).init, jax.random.key(0), jnp.zeros((1, 16_000)))
  count = sum(x.size for x in jax.tree.leaves(meta.unbox(shapes)))
  assert count == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("samples", [1600, 9_999, 16_000])
def test_logits_of_any_length_do_not_depend_on_the_batch(dtype, samples):
  config = ClassifierConfig(
    features=LogMelConfig(num_mels=16), channels=(4, 8), groups=2, num_classes=5, dtype=dtype
  )
  sounds = np.stack([melody(1.0, seed=i)[:samples] for i in range(3)])
  model = Classifier(config)
  params = meta.unbox(jax.jit(model.init)(jax.random.key(0), sounds))
  together = model.apply(params, sounds)
  assert together.shape == (3, 5) and together.dtype == jnp.float32  # pyright: ignore[reportAttributeAccessIssue]: Flax declares a union
  alone = np.concatenate([model.apply(params, sound[None]) for sound in sounds])  # pyright: ignore[reportArgumentType, reportCallIssue]: Flax declares a union
  np.testing.assert_allclose(together, alone, atol=1e-5 if dtype == "float32" else 0.1)  # pyright: ignore[reportArgumentType, reportCallIssue]: Flax declares a union
  assert np.abs(together[0] - together[1]).max() > 1e-3


def test_inconsistent_sizes_are_refused():
  with pytest.raises(ConfigError, match="multiples of groups 8"):
    ClassifierConfig(channels=(8, 12))
  with pytest.raises(ConfigError, match="num_mels 40 cannot be halved 5 times"):
    ClassifierConfig(features=LogMelConfig(num_mels=40))
