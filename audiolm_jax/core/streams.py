"""Named streams of tokens, which stages read and write, and records of streams.

A record maps the keys of streams to the tokens of one clip. The key of a stream of the clip itself
is the name of the stream. The key of a source or a prompt is its role and its name:

    {"semantic": [steps], "codes": [frames, levels], "source.text": [characters]}
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping

import numpy as np

from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.ranges import DepthOrNone, Rate, StreamSize

# Names of the streams that the tokenizers of a bundle write.
SEMANTIC, CODES = "semantic", "codes"

Record = Mapping[str, np.ndarray]


class Role(enum.StrEnum):
  """The relation of a stream to the clip that a stage predicts.

  TARGET is the clip itself, SOURCE determines its content, and PROMPT determines its voice.
  """

  TARGET = "target"
  SOURCE = "source"
  PROMPT = "prompt"


@dataclasses.dataclass(frozen=True)
class Stream:
  """The description of a sequence of tokens [steps] or [steps, levels].

  Attributes:
    name: name of the stream, such as "semantic" or "codes".
    size: vocabulary; the tokens of each level are in [0, size).
    rate: steps per second; None for a stream without positions in time, such as text.
    levels: number of levels; 0 for a stream of shape [steps].
    first_level: index of the first of these levels; above 0 if a stage predicts these levels from
      lower levels.
    role: relation of the stream to the clip.

  Raises:
    ConfigError: the name is empty or contains "." or "/".
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
    """The key of the stream in a record."""
    return self.name if self.role is Role.TARGET else f"{self.role.value}.{self.name}"

  @property
  def end_level(self) -> int:
    """Index of the level after the last level."""
    return self.first_level + self.levels

  def steps(self, seconds: float) -> int:
    """Returns the number of steps in a duration, rounded; 0 for a stream without a rate."""
    return round(seconds * (self.rate or 0.0))

  def of(self, record: Record, reader: str) -> np.ndarray:
    """Returns the tokens of the stream in a record, from level 0 to the last level of the stream.

    Args:
      record: the record.
      reader: name of the stage that reads the tokens, for error messages.

    Raises:
      DataError: the tokens are missing, have too few levels, or are outside the vocabulary.
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
    """The name of the tokens for messages."""
    return self.key if self.levels else f"{self.key} tokens"


# The key of the semantic tokens of the source: another recording with the content of the clip.
SOURCE_SEMANTIC = f"{Role.SOURCE.value}.{SEMANTIC}"
# The spoken words of a clip, one Unicode code point per character. A store of tokens therefore does
# not depend on a text vocabulary.
TEXT = Stream("text", 0x110000, role=Role.SOURCE)
# The words that a stage recognizes. The key differs from the key of TEXT, so the stages that read
# TEXT cannot follow the stages that write TRANSCRIPT.
TRANSCRIPT = Stream("text", 0x110000)


def by_key(streams: Iterable[Stream]) -> dict[str, Stream]:
  """Returns streams by key; merges streams with equal keys into one stream with all levels."""
  found: dict[str, Stream] = {}
  for stream in streams:
    other = found.get(stream.key, stream)
    first, end = min(stream.first_level, other.first_level), max(stream.end_level, other.end_level)
    found[stream.key] = dataclasses.replace(stream, first_level=first, levels=end - first)
  return found


def of_tokenizers(codec: Json, semantic: Json) -> dict[str, Stream]:
  """Returns the streams that a codec and a semantic tokenizer write, by key.

  Args:
    codec: the spec of the codec as JSON values; empty for no codec.
    semantic: the spec of the semantic tokenizer as JSON values; empty for no semantic tokenizer.
  """
  streams: list[Stream] = []
  if semantic:
    rate = semantic["sample_rate"] / semantic["hop_length"]
    streams.append(Stream(SEMANTIC, semantic["num_clusters"], rate))
  if codec:
    rate, levels = codec["sample_rate"] / codec["hop_length"], codec["num_quantizers"]
    streams.append(Stream(CODES, codec["codebook_size"], rate, levels))
  return by_key(streams)


def of_pairs(streams: Mapping[str, Stream]) -> dict[str, Stream]:
  """Returns the streams that can be the source of a clip, by key.

  The source of a clip is a text or another recording with the same content.

  Args:
    streams: the streams of the tokenizers, by key.

  Returns:
    The text, and the semantic tokens of a recording if the tokenizers write semantic tokens.
  """
  found = [TEXT]
  if SEMANTIC in streams:
    found.append(dataclasses.replace(streams[SEMANTIC], role=Role.SOURCE))
  return by_key(found)


def differences(expected: Stream, found: Stream) -> list[str]:
  """Returns a phrase for each difference between the expected and the found stream.

  Args:
    expected: the stream that a stage reads or writes.
    found: the stream of existing tokens, which may have more levels.
  """
  phrases: list[str] = []
  for field, name in (("rate", "rate"), ("size", "vocabulary")):
    a, b = getattr(expected, field), getattr(found, field)
    if a != b:
      phrases.append(f"a {name} of {a} in {expected.key}, its tokens have {b}")
  if expected.end_level > found.end_level:
    phrases.append(
      f"{expected.end_level} levels of {expected.key}, its tokens have {found.end_level}"
    )
  return phrases
