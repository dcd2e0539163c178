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
class Limits:
  """The limits of one request.

  Attributes:
    max_duration: seconds of new audio of each sample.
    max_prompt_seconds: seconds of the prompt that are used.
    max_samples: number of samples.
    max_upload_bytes: size of one file.
    timeout: seconds of computing time.
  """

  max_duration: float = 30.0
  max_prompt_seconds: float = 10.0
  max_samples: int = 4
  max_upload_bytes: int = 20_000_000
  timeout: float = 180.0


@dataclasses.dataclass(frozen=True)
class Request:
  """A checked request.

  Attributes:
    bundle: name of a bundle of the demo.
    mode: what the sampled audio is conditioned on.
    prompt: audio file; None in unconditional mode.
    duration: seconds of new audio; in resynthesis, seconds of the prompt.
    prompt_seconds: seconds of the prompt that are used, from its beginning.
    temperatures: by stage.
    seed: of the first sample; sample i has the seed plus i.
    num_samples: number of samples, which are created one after the other.
  """

  bundle: str
  mode: Mode
  prompt: Path | None
  duration: float
  prompt_seconds: float
  temperatures: Mapping[str, float]
  seed: int = 0
  num_samples: int = 1

  @property
  def used_prompt_seconds(self) -> float:
    """The seconds of the prompt's file that are read."""
    return self.duration if self.mode is Mode.RESYNTHESIS else self.prompt_seconds


def checked(asked: Json, bundles: Collection[str], limits: Limits) -> Request:
  """Returns the request for the values of a page.

  Args:
    asked: values of any type from a browser, by the names of `Request` and `temperature_STAGE` for
      each stage.
    bundles: names of the available bundles.
    limits: of one request.

  Raises:
    UserError: a value is missing, not a number, or beyond a limit.
  """
  if asked["bundle"] not in list(bundles):
    raise UserError(f"bundle {shown(asked['bundle'])} is not one of {', '.join(bundles)}")
  mode = arguments.member(Mode, asked["mode"], "mode")
  takes_prompt = mode is not Mode.UNCONDITIONAL
  if takes_prompt and not (asked["prompt"] and isinstance(asked["prompt"], str)):
    raise UserError(f"{mode} needs a prompt: record one, upload a file, or pick an example")
  return Request(
    bundle=asked["bundle"],
    mode=mode,
    prompt=Path(asked["prompt"]) if takes_prompt else None,
    duration=_between(asked, "duration", _LEAST_SECONDS, limits.max_duration),
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
  )


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
