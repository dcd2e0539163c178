"""Serves one request of the page, independently of the web framework."""

import logging
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from audiolm_jax.bundles import Bundle
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import UserError
from audiolm_jax.demo import cards, making, requests
from audiolm_jax.demo.jobs import Job, Jobs, StoppedError
from audiolm_jax.demo.requests import RequestLimits
from audiolm_jax.demo.turns import Turn, Turns

_WAIT_SECONDS = 0.5  # between two checks of the queue; Stop takes effect at the next check
_UNEXPECTED = "Something went wrong; the error is in the log. Try again, or request less audio."


class Shown(NamedTuple):
  """An update of the page.

  Attributes:
    status: HTML of the status line.
    visible: number of samples that the page shows; None for no change.
    players: HTML of changed audio players, by sample index.
    details: HTML of changed details, by sample index.
  """

  status: str
  visible: int | None = None
  players: Mapping[int, str] = {}
  details: Mapping[int, str] = {}


def serve(
  asked: Json,
  owner: str,
  bundles: Mapping[str, Bundle],
  limits: RequestLimits,
  jobs: Jobs,
  turns: Turns,
) -> Iterator[Shown]:
  """Yields the updates of the page while a request waits and runs; errors become messages.

  Args:
    asked: see `requests.checked`.
    owner: the browser session that sent the request.
    bundles: bundles by the names that the page shows.
    limits: limits of one request.
    jobs: jobs of the server, which store the results.
    turns: the queue of all requests.
  """
  job = None
  try:
    request = requests.checked(asked, bundles, limits)
    with turns.joined() as turn:
      job = jobs.begin(owner, limits.timeout)
      yield from _waits(turn, job)
      nothing = dict.fromkeys(range(limits.max_samples), "")
      yield Shown(cards.message("Making …"), request.num_samples, nothing, nothing)
      yield from _steps(bundles[request.bundle], request, job)
  except StoppedError:
    yield Shown(cards.message("Stopped."))
  except UserError as error:
    yield Shown(cards.error(str(error)))
  except Exception:  # one failed request must not end the page
    logging.exception("a request failed")
    yield Shown(cards.error(_UNEXPECTED))
  finally:
    if job is not None:
      jobs.end(job)


def _waits(turn: Turn, job: Job) -> Iterator[Shown]:
  """Yields the place in the queue while a job waits, then starts the time limit of the job."""
  while ahead := turn.ahead:
    job.check()
    yield Shown(cards.message(f"Waiting; place {ahead} in the queue."))
    time.sleep(_WAIT_SECONDS)
  job.start()


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
    yield Shown(cards.message(words), None, players, details)
  many = "1 sample" if request.num_samples == 1 else f"{request.num_samples} samples"
  yield Shown(cards.message(f"Made {many} in {time.monotonic() - began:.1f} s."))
