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
TEMPERATURE = "temperature_"  # before the name of a stage
_LEAST_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class RequestLimits:
  """The limits of one request.

  Attributes:
    max_duration: seconds of new audio of each sample.
    max_prompt_seconds: seconds of the prompt that are used.
    max_samples: number of samples.
    max_upload_bytes: size of one file.
    max_characters: length of a text to speak.
    timeout: seconds of computing time.
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
    bundle: name of a bundle of the demo.
    mode: what the sampled audio is conditioned on; None to speak a text.
    prompt: audio file; None in unconditional mode, and for a text in a drawn voice.
    duration: seconds of new audio; in resynthesis, seconds of the prompt; of a text, the most
      seconds that the speech may last.
    prompt_seconds: seconds of the prompt that are used, from its beginning.
    temperatures: by stage.
    seed: of the first sample; sample i has the seed plus i.
    num_samples: number of samples, which are created one after the other.
    text: to speak in the voice of the prompt; "" in all modes.
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
    """The seconds of the prompt's file that are read."""
    return self.duration if self.mode is Mode.RESYNTHESIS else self.prompt_seconds


def checked(asked: Json, bundles: Collection[str], limits: RequestLimits) -> Request:
  """Returns the request for the values of a page.

  Args:
    asked: values of any type from a browser, by the names of `Request` and `temperature_STAGE` for
      each stage. With a text, the prompt is optional, and the mode states only whether the page
      shows one.
    bundles: names of the available bundles.
    limits: of one request.

  Raises:
    UserError: a value is missing, not a number, or beyond a limit.
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
  """Returns a text to speak.

  Raises:
    UserError: the value is no text, has no words or is too long.
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
  """Returns a number that a browser sent as text; other values as they are."""
  try:
    return float(value) if isinstance(value, str) else value
  except ValueError:
    return value
