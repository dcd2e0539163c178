"""Requests to the demo, checked against its limits."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

from audiolm_jax.bundles.settings import LEAST_PROMPT_SECONDS, Mode
from audiolm_jax.core import arguments
from audiolm_jax.core.configs import Json, shown
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.ranges import Range

HOTTEST = 2.0
TEMPERATURE = "temperature_"  # prefix of the name of a stage
_LEAST_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class RequestLimits:
  """The limits of one request.

  Attributes:
    max_duration: maximum seconds of new audio in each sample.
    max_prompt_seconds: maximum seconds of the prompt that are used.
    max_samples: maximum number of samples.
    max_upload_bytes: maximum size of an uploaded file in bytes.
    max_characters: maximum number of characters in a text to speak.
    timeout: maximum computing time in seconds.
  """

  max_duration: float = 30.0
  max_prompt_seconds: float = 10.0
  max_samples: int = 4
  max_upload_bytes: int = 20_000_000
  max_characters: int = 500
  timeout: float = 180.0


@dataclasses.dataclass(frozen=True)
class Request:
  """A checked request.

  Attributes:
    bundle: name of a demo bundle.
    mode: mode of the continuation, see `Mode`; None to speak a text.
    prompt: path of the audio file; None in unconditional mode, and for a text in a voice that the
      model draws.
    duration: seconds of new audio; in resynthesis, seconds of the prompt to use; for a text, the
      maximum seconds of the speech.
    prompt_seconds: seconds of the prompt to use, from its beginning; not used in resynthesis.
    temperatures: sampling temperatures by the name of the stage.
    seed: seed of the first sample; the seed of sample i is `seed` + i.
    num_samples: number of samples, which are sampled one after the other.
    text: text to speak, in the voice of `prompt` if it is not None; "" if `mode` is not None.
  """

  bundle: str
  mode: Mode | None
  prompt: Path | None
  duration: float
  prompt_seconds: float
  temperatures: Mapping[str, float]
  seed: int = 0
  num_samples: int = 1
  text: str = ""

  @property
  def used_prompt_seconds(self) -> float:
    """The seconds that are read from the beginning of the prompt's file."""
    return self.duration if self.mode is Mode.RESYNTHESIS else self.prompt_seconds


def checked(asked: Json, bundles: Collection[str], limits: RequestLimits) -> Request:
  """Checks the values of the page, and returns the request.

  Args:
    asked: values of any type from a browser. The keys are the attribute names of `Request`, but
      `temperature_STAGE` is the temperature of one stage. With a `text`, the prompt is optional.
      In unconditional mode, the prompt is ignored.
    bundles: names of the available bundles.
    limits: limits of one request.

  Raises:
    UserError: the prompt is missing, or a value is not valid or beyond a limit.
  """
  if asked["bundle"] not in list(bundles):
    raise UserError(f"bundle {shown(asked['bundle'])} is not one of {', '.join(bundles)}")
  mode = arguments.member(Mode, asked["mode"], "mode")
  speaks = "text" in asked
  has_prompt = bool(asked["prompt"]) and isinstance(asked["prompt"], str)
  takes_prompt = mode is not Mode.UNCONDITIONAL and (has_prompt or not speaks)
  if takes_prompt and not has_prompt:
    raise UserError(f"{mode} needs a prompt: record one, upload a file, or pick an example")
  return Request(
    bundle=asked["bundle"],
    mode=None if speaks else mode,
    prompt=Path(asked["prompt"]) if takes_prompt else None,
    duration=limits.max_duration
    if speaks
    else _between(asked, "duration", _LEAST_SECONDS, limits.max_duration),
    prompt_seconds=_between(
      asked, "prompt_seconds", LEAST_PROMPT_SECONDS, limits.max_prompt_seconds
    ),
    temperatures={
      name.removeprefix(TEMPERATURE): _between(asked, name, 0.0, HOTTEST)
      for name in asked
      if name.startswith(TEMPERATURE)
    },
    seed=_whole(asked, "seed", 0, 2**32 - limits.max_samples),
    num_samples=_whole(asked, "num_samples", 1, limits.max_samples),
    text=checked_text(asked["text"], limits) if speaks else "",
  )


def checked_text(value: object, limits: RequestLimits) -> str:
  """Checks a text to speak, and returns it.

  Raises:
    UserError: the value is not a string, is blank or is too long.
  """
  if not isinstance(value, str) or not value.strip():
    raise UserError("there is no text to speak; write at least one word")
  if len(value) > limits.max_characters:
    raise UserError(
      f"the text has {len(value)} characters, and {limits.max_characters} are allowed; shorten it"
    )
  return value


def _between(asked: Json, name: str, least: float, most: float) -> float:
  return arguments.number(_parsed(asked[name]), name.replace("_", " "), Range(least, most))


def _whole(asked: Json, name: str, least: int, most: int) -> int:
  return arguments.whole(_parsed(asked[name]), name.replace("_", " "), Range(least, most))


def _parsed(value: object) -> object:
  """Converts a number that a browser sent as text; returns other values unchanged."""
  try:
    return float(value) if isinstance(value, str) else value
  except ValueError:
    return value
