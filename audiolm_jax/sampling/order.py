"""The order in which stages sample."""

from collections.abc import Mapping

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.streams import Stream
from audiolm_jax.lm.stage import Stage, StageSpec


def in_order(stages: Mapping[str, Stage]) -> dict[str, Stage]:
  """Returns stages in an order in which each follows those it reads; else their order is kept.

  Raises:
    ConfigError: stages depend on each other.
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
  """Returns whether one stage writes a stream that another reads."""
  return writer is not reader and any(overlap(writer.writes, stream) for stream in reader.reads)


def overlap(one: Stream, other: Stream) -> bool:
  """Returns whether two streams share a level."""
  if one.key != other.key:
    return False
  if not one.levels or not other.levels:
    return True
  return one.first_level < other.end_level and other.first_level < one.end_level
