"""Named streams of tokens, and records of them: what stages read and write.

A record holds the tokens of one clip by the keys of their streams. A stream of the clip itself goes
by its name; one that accompanies it as a source or as a prompt has its role before the name:

    {"semantic": [steps], "codes": [frames, levels], "source.text": [characters]}
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping

import numpy as np

from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.ranges import DepthOrNone, Rate, StreamSize

# What the tokenizers of a bundle make.
SEMANTIC, CODES = "semantic", "codes"

Record = Mapping[str, np.ndarray]


class Role(enum.StrEnum):
  """What a stream is to the clip: the clip itself, what it follows from, or what it resembles."""

  TARGET = "target"
  SOURCE = "source"
  PROMPT = "prompt"


@dataclasses.dataclass(frozen=True)
class Stream:
  """A row of tokens, or of frames of tokens.

  Attributes:
    name: such as "semantic" or "codes".
    size: tokens lie in [0, size), at every level.
    rate: steps per second; None for a stream without a place in time, such as text.
    levels: tokens per step; 0 for a stream that is [steps] and not [steps, levels].
    first_level: of those that are meant; a stage may write what comes after the levels it reads.
    role: see `Role`.
  """

  name: str
  size: StreamSize
  rate: Rate | None = None
  levels: DepthOrNone = 0
  first_level: DepthOrNone = 0
  role: Role = Role.TARGET

  def __post_init__(self):
    object.__setattr__(self, "role", Role(self.role))
    if not self.name or "." in self.name or "/" in self.name:
      raise ConfigError(f"a stream cannot be called {self.name!r}; use a name without . and /")

  @property
  def key(self) -> str:
    """Where a record holds it."""
    return self.name if self.role is Role.TARGET else f"{self.role.value}.{self.name}"

  @property
  def end_level(self) -> int:
    """One more than the last level that is meant."""
    return self.first_level + self.levels

  def steps(self, seconds: float) -> int:
    """Steps of a timed stream in a stretch of time, rounded."""
    return round(seconds * (self.rate or 0.0))

  def of(self, record: Record, reader: str) -> np.ndarray:
    """The stream's tokens in a record, from level 0 to the last that is meant.

    Args:
      reader: what needs them, for the error message.
    Raises:
      DataError: they are missing, have too few levels, or lie outside the vocabulary.
    """
    tokens = record.get(self.key)
    if tokens is None:
      raise DataError(f"{reader} needs {self.words}, and none were given")
    tokens = np.asarray(tokens)
    if self.levels:
      if tokens.ndim != 2 or tokens.shape[1] < self.end_level:
        raise DataError(
          f"{self.key} of shape {tokens.shape} given; {reader} needs [frames, quantizers] with at "
          f"least {self.end_level} quantizers"
        )
      tokens = tokens[:, : self.end_level]
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.size:
      raise DataError(
        f"{self.words} range over {tokens.min()}..{tokens.max()}; {reader} knows 0..{self.size - 1}"
      )
    return tokens

  @property
  def words(self) -> str:
    """For messages."""
    return self.key if self.levels else f"{self.key} tokens"


def by_key(streams: Iterable[Stream]) -> dict[str, Stream]:
  """Each key's stream, with all levels that any of them means."""
  found: dict[str, Stream] = {}
  for stream in streams:
    other = found.get(stream.key, stream)
    first, end = min(stream.first_level, other.first_level), max(stream.end_level, other.end_level)
    found[stream.key] = dataclasses.replace(stream, first_level=first, levels=end - first)
  return found


def of_tokenizers(codec: Json, semantic: Json) -> dict[str, Stream]:
  """The streams that a codec and a semantic tokenizer make, by key.

  Args:
    codec: its spec in plain form; empty for none.
    semantic: the same of the semantic tokenizer.
  """
  made: list[Stream] = []
  if semantic:
    rate = semantic["sample_rate"] / semantic["hop_length"]
    made.append(Stream(SEMANTIC, semantic["num_clusters"], rate))
  if codec:
    rate, levels = codec["sample_rate"] / codec["hop_length"], codec["num_quantizers"]
    made.append(Stream(CODES, codec["codebook_size"], rate, levels))
  return by_key(made)


def differences(wanted: Stream, there: Stream) -> list[str]:
  """How an existing stream differs from one that is read or written, in words."""
  found: list[str] = []
  for field, what in (("rate", "rate"), ("size", "vocabulary")):
    a, b = getattr(wanted, field), getattr(there, field)
    if a != b:
      found.append(f"a {what} of {a} in {wanted.key}, its tokens have {b}")
  if wanted.end_level > there.end_level:
    found.append(f"{wanted.end_level} levels of {wanted.key}, its tokens have {there.end_level}")
  return found
