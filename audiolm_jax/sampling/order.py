"""The order in which stages sample."""

from collections.abc import Mapping

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.streams import Stream
from audiolm_jax.lm.stage import Stage, StageSpec


def in_order(stages: Mapping[str, Stage]) -> dict[str, Stage]:
  """Sorts stages so that each stage follows the stages whose tokens it reads.

  If several stages can come next, the first of them in `stages` comes next.

  Raises:
    ConfigError: stages read tokens of each other in a cycle.
  """
  waiting = dict(stages)
  ordered: dict[str, Stage] = {}
  while waiting:
    ready = [
      name
      for name, stage in waiting.items()
      if not any(feeds(other.spec, stage.spec) for other in waiting.values())
    ]
    if not ready:
      raise ConfigError(f"the stages {', '.join(waiting)} read what each other write")
    ordered[ready[0]] = waiting.pop(ready[0])
  return ordered


def feeds(writer: StageSpec, reader: StageSpec) -> bool:
  """Returns whether the stage `writer` writes tokens that another stage, `reader`, reads."""
  return writer is not reader and any(overlap(writer.writes, stream) for stream in reader.reads)


def overlap(one: Stream, other: Stream) -> bool:
  """Returns whether two streams have the same key and, if they have levels, a common level."""
  if one.key != other.key:
    return False
  if not one.levels or not other.levels:
    return True
  return one.first_level < other.end_level and other.first_level < one.end_level
