"""What is being made and what was made a while ago, in bounded memory and on bounded disk."""

import dataclasses
import secrets
import shutil
import threading
import time
from pathlib import Path

import numpy as np

from audiolm_jax.core.errors import UserError


class StoppedError(Exception):
  """The one who asked for it wants it no longer."""


class Sample:
  """One clip on its way: 16-bit little-endian samples as far as they are made.

  Attributes:
    sample_rate: Hz.
    num_samples: how many there will be.
    is_complete: all are there, and its files beside them.
  """

  def __init__(self, sample_rate: int, num_samples: int):
    self.sample_rate = sample_rate
    self.num_samples = num_samples
    self.is_complete = False
    self._bytes = bytearray()

  def add(self, piece: np.ndarray) -> None:
    """Takes float samples in [-1, 1]."""
    self._bytes += np.round(np.clip(piece, -1.0, 1.0) * 32_767).astype("<i2").tobytes()

  def since(self, start: int) -> bytes:
    """What is there from byte `start` on."""
    return bytes(self._bytes[start:])

  @property
  def seconds(self) -> float:
    """How much is there."""
    return len(self._bytes) / 2 / self.sample_rate


@dataclasses.dataclass
class Job:
  """One request on its way.

  Attributes:
    owner: the session that asked.
    folder: of its files.
    deadline: by `time.monotonic`, when it is given up.
    timeout: seconds from its beginning to that.
    samples: those that were begun.
    ended: by `time.monotonic`; None while it is being made.
  """

  owner: str
  folder: Path
  deadline: float
  timeout: float
  samples: list[Sample] = dataclasses.field(default_factory=list)
  ended: float | None = None
  stopped: threading.Event = dataclasses.field(default_factory=threading.Event)

  @property
  def name(self) -> str:
    """Nobody guesses it: whoever knows it may hear the sound."""
    return self.folder.name

  def check(self, *_: object) -> None:
    """Raises where the making shall not go on; fit to be a progress callback.

    Raises:
      StoppedError: somebody pressed Stop, or left.
      UserError: it takes too long.
    """
    if self.stopped.is_set():
      raise StoppedError
    if time.monotonic() > self.deadline:
      raise UserError(
        f"this took longer than {self.timeout:g} s; ask for less sound, or when fewer are here"
      )


class Jobs:
  """All jobs; those that ended go when they are old or too many.

  Args:
    folder: where theirs are made.
    keep: how many that ended are kept.
    keep_seconds: how long.
  """

  def __init__(self, folder: Path, *, keep: int = 20, keep_seconds: float = 900.0):
    self._folder = folder
    self._keep, self._keep_seconds = keep, keep_seconds
    self._jobs: dict[str, Job] = {}
    self._lock = threading.Lock()

  def begin(self, owner: str, timeout: float) -> Job:
    """A new job; what the same session had going is stopped."""
    self.stop(owner)
    self.tidy()
    folder = self._folder / secrets.token_urlsafe(16)
    folder.mkdir()
    job = Job(owner, folder, time.monotonic() + timeout, timeout)
    with self._lock:
      self._jobs[job.name] = job
    return job

  def end(self, job: Job) -> None:
    """Nothing more will be made of it."""
    job.stopped.set()
    job.ended = time.monotonic()

  def stop(self, owner: str) -> None:
    """Asks the jobs of a session to end."""
    for job in self._listed():
      if job.owner == owner:
        job.stopped.set()

  def wait(self, owner: str, seconds: float) -> None:
    """Until no job of a session is going, so many seconds at most."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(
      job.owner == owner and job.ended is None for job in self._listed()
    ):
      time.sleep(0.02)

  def stop_all(self) -> None:
    """Asks every job to end."""
    for job in self._listed():
      job.stopped.set()

  def find(self, name: str) -> Job | None:
    """The job of a name, if it is there still."""
    with self._lock:
      return self._jobs.get(name)

  @property
  def going(self) -> int:
    """How many are being made."""
    return sum(job.ended is None for job in self._listed())

  def tidy(self) -> None:
    """Forgets what ended long ago, and the oldest of too many."""
    ended = sorted(
      ((job.ended, job.name) for job in self._listed() if job.ended is not None), reverse=True
    )
    oldest = time.monotonic() - self._keep_seconds
    for place, (at, name) in enumerate(ended):
      if place >= self._keep or at < oldest:
        with self._lock:
          job = self._jobs.pop(name, None)
        if job is not None:
          shutil.rmtree(job.folder, ignore_errors=True)

  def _listed(self) -> list[Job]:
    with self._lock:
      return list(self._jobs.values())
