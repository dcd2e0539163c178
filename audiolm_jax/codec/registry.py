"""The codecs that this project can train, with their configuration classes.

The module of a configuration class is imported when the class is first used.
"""

import dataclasses
from typing import TYPE_CHECKING

from audiolm_jax.core.configs import Json, shown
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.imports import imported

if TYPE_CHECKING:
  from audiolm_jax.codec.residual_codec import TrainableConfig

# The configuration class of each codec as "module:class"; the keys are types in `bundle.json`.
CODECS: dict[str, str] = {
  "soundstream": "audiolm_jax.codec.soundstream:SoundStreamConfig",
  "frame_rate": "audiolm_jax.codec.frame_rate:FrameRateConfig",
}


def config_class(values: Json) -> "type[TrainableConfig]":
  """Finds the class of a stored codec configuration by the names of its fields.

  Args:
    values: the configuration as JSON values. Older configurations lack some fields of their class.

  Returns:
    The class that has all fields of `values`; if several classes do, the class with the fewest
    fields.

  Raises:
    ConfigError: no codec has all fields of `values`, or several of the matching classes have the
      fewest fields.
  """
  others: "dict[type[TrainableConfig], int]" = {}
  for home in CODECS.values():
    known: "type[TrainableConfig]" = imported(home)
    names = {field.name for field in dataclasses.fields(known)}
    if names >= set(values):
      others[known] = len(names)
  fewest = [known for known, count in others.items() if count == min(others.values())]
  if not fewest:
    raise ConfigError(
      f"no codec has the fields {shown(sorted(values))}; known: {', '.join(CODECS)}"
    )
  if len(fewest) > 1:
    names = " and ".join(known.__name__ for known in fewest)
    raise ConfigError(f"the codecs {names} have the same fields; give each a field of its own")
  return fewest[0]
