"""One request on its way from the page and back, without the page."""

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from audiolm_jax.bundles import Bundle
from audiolm_jax.core.errors import UserError
from audiolm_jax.demo import cards, making, requests
from audiolm_jax.demo.jobs import Job, Jobs, StoppedError
from audiolm_jax.demo.requests import Limits

_UNEXPECTED = "Something went wrong here, and was written to the log. Try again, or ask for less."


class Shown(NamedTuple):
  """What changes on the page; None where it stays.

  Attributes:
    status: a line of HTML.
    visible: how many samples have a place.
    players: HTML by sample.
    details: HTML by sample.
  """

  status: str
  visible: int | None = None
  players: Mapping[int, str] = {}
  details: Mapping[int, str] = {}


def serve(
  asked: Mapping[str, Any], owner: str, bundles: Mapping[str, Bundle], limits: Limits, jobs: Jobs
) -> Iterator[Shown]:
  """What the page shows while a request is made; every error becomes a line.

  Args:
    asked: see `requests.checked`.
    owner: the session that asks.
  """
  job = None
  try:
    request = requests.checked(asked, bundles, limits)
    job = jobs.begin(owner, limits.timeout)
    nothing = dict.fromkeys(range(limits.max_samples), "")
    yield Shown(cards.said("Making …"), request.num_samples, nothing, nothing)
    yield from _steps(bundles[request.bundle], request, job)
  except StoppedError:
    yield Shown(cards.said("Stopped."))
  except UserError as error:
    yield Shown(cards.wrong(str(error)))
  except Exception:  # whatever it is, the page goes on
    logging.exception("a request failed")
    yield Shown(cards.wrong(_UNEXPECTED))
  finally:
    if job is not None:
      jobs.end(job)


def _steps(bundle: Bundle, request: requests.Request, job: Job) -> Iterator[Shown]:
  began = time.monotonic()
  shown = -1
  for number, verdict in making.make(bundle, request, job):
    sample = job.samples[number]
    total = sample.num_samples / sample.sample_rate
    words = f"Sample {number + 1} of {request.num_samples}: {sample.seconds:.1f} of {total:.1f} s"
    players = {} if number == shown else {number: cards.player(job, number)}
    details = {} if verdict is None else {number: cards.details(job, number, verdict)}
    shown = number
    yield Shown(cards.said(words), None, players, details)
  many = "1 sample" if request.num_samples == 1 else f"{request.num_samples} samples"
  yield Shown(cards.said(f"Made {many} in {time.monotonic() - began:.1f} s."))
