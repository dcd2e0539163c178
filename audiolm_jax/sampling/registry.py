"""The kinds of stages: for each kind, the spec class in lm/ and the sampler class in sampling/.

The module of a class is imported when the class is first used.
"""

from typing import Any, NamedTuple

from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.imports import imported
from audiolm_jax.lm.stage import Stage, StageSpec


class StageKind(NamedTuple):
  """Locations of the classes of a kind, as "module:class".

  Attributes:
    spec: location of the subclass of `StageSpec`.
    sampler: location of the implementation of `pull.Sampler`.
  """

  spec: str
  sampler: str


KINDS: dict[str, StageKind] = {
  "autoregressive": StageKind(
    "audiolm_jax.lm.stages:AutoregressiveSpec",
    "audiolm_jax.sampling.autoregressive:AutoregressiveSampler",
  ),
  "parallel": StageKind(
    "audiolm_jax.lm.parallel:ParallelSpec",
    "audiolm_jax.sampling.parallel:ParallelSampler",
  ),
  "conditioned": StageKind(
    "audiolm_jax.lm.conditioned:ConditionedSpec",
    "audiolm_jax.sampling.conditioned:ConditionedSampler",
  ),
}


def spec_class(values: Json) -> type[StageSpec]:
  """Returns the class of a stored spec; old specs without a kind are autoregressive.

  Raises:
    ConfigError: the kind does not exist.
  """
  return imported(_kind(values.get("kind", "autoregressive")).spec)


def sampler_of(stage: Stage) -> Any:
  """Returns a new sampler of a stage."""
  return imported(_kind(stage.spec.kind).sampler)(stage)


def _kind(name: str) -> StageKind:
  if name not in KINDS:
    raise ConfigError(f"no stage is of the kind {name!r}; the kinds are {', '.join(KINDS)}")
  return KINDS[name]
