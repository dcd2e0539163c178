"""Running and recent requests with their audio, in bounded memory and disk space."""

import dataclasses
import math
import secrets
import shutil
import threading
import time
from pathlib import Path

import numpy as np

from audiolm_jax.core.errors import UserError


class StoppedError(Exception):
  """Raised if a job is stopped by its client, by a new request of its session or by the server."""


class LateError(UserError):
  """Raised if a job exceeds its time limit."""


class Sample:
  """A clip that grows while it is sampled, as 16-bit little-endian samples.

  Attributes:
    sample_rate: sample rate in Hz.
    num_samples: number of samples of the complete clip.
    is_complete: whether the clip is complete and its files are written.
  """

  def __init__(self, sample_rate: int, num_samples: int):
    self.sample_rate = sample_rate
    self.num_samples = num_samples
    self.is_complete = False
    self._bytes = bytearray()

  def add(self, piece: np.ndarray) -> None:
    """Appends float samples, which are clipped to [-1, 1]."""
    self._bytes += np.round(np.clip(piece, -1.0, 1.0) * 32_767).astype("<i2").tobytes()

  def since(self, start: int) -> bytes:
    """Returns the current bytes of the clip, from byte `start` to the end."""
    return bytes(self._bytes[start:])

  @property
  def seconds(self) -> float:
    """The current duration in seconds."""
    return len(self._bytes) / 2 / self.sample_rate


@dataclasses.dataclass
class Job:
  """A waiting, running or ended request.

  Attributes:
    owner: the browser session that sent the request.
    folder: folder with the files of the samples.
    timeout: time limit of the computation in seconds, after which the job is aborted.
    samples: the clips that the job has started to sample.
    deadline: value of `time.monotonic` at which the job is aborted; infinite while it waits.
    ended: value of `time.monotonic` at which the job ended; None before the end.
    stopped: event that is set when the job must end.
  """

  owner: str
  folder: Path
  timeout: float
  samples: list[Sample] = dataclasses.field(default_factory=list)
  deadline: float = math.inf
  ended: float | None = None
  stopped: threading.Event = dataclasses.field(default_factory=threading.Event)

  @property
  def name(self) -> str:
    """The random name of the job, which gives access to the audio and cannot be guessed."""
    return self.folder.name

  def start(self) -> None:
    """Starts the time limit of the computation."""
    self.deadline = time.monotonic() + self.timeout

  def check(self, *_: object) -> None:
    """Raises an error if the job must end. Can be used as a progress callback.

    Raises:
      StoppedError: the job was stopped by its client, a new request of its session or the server.
      LateError: the job exceeds its time limit.
    """
    if self.stopped.is_set():
      raise StoppedError
    if time.monotonic() > self.deadline:
      raise LateError(
        f"this took longer than {self.timeout:g} s; request less audio, or try again later"
      )


class Jobs:
  """All jobs of a server.

  An ended job is removed after `keep_seconds`, or earlier if `keep` newer jobs have ended.

  Args:
    folder: folder that contains the folders of the jobs.
    keep: number of ended jobs to keep.
    keep_seconds: seconds to keep an ended job.
  """

  def __init__(self, folder: Path, *, keep: int = 20, keep_seconds: float = 900.0):
    self._folder = folder
    self._keep, self._keep_seconds = keep, keep_seconds
    self._jobs: dict[str, Job] = {}
    self._lock = threading.Lock()

  def begin(self, owner: str, timeout: float) -> Job:
    """Returns a new job of the session `owner`, and stops the other jobs of this session."""
    self.stop(owner)
    self.tidy()
    folder = self._folder / secrets.token_urlsafe(16)
    folder.mkdir()
    job = Job(owner, folder, timeout)
    with self._lock:
      self._jobs[job.name] = job
    return job

  def end(self, job: Job) -> None:
    """Marks a job as ended."""
    job.stopped.set()
    job.ended = time.monotonic()

  def remove(self, job: Job) -> None:
    """Ends a job and removes its files."""
    self.end(job)
    with self._lock:
      self._jobs.pop(job.name, None)
    shutil.rmtree(job.folder, ignore_errors=True)

  def stop(self, owner: str) -> None:
    """Requests that all jobs of a session end."""
    for job in self._listed():
      if job.owner == owner:
        job.stopped.set()

  def wait(self, owner: str, seconds: float) -> None:
    """Waits until all jobs of a session have ended, for at most `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(
      job.owner == owner and job.ended is None for job in self._listed()
    ):
      time.sleep(0.02)

  def stop_all(self) -> None:
    """Requests that every job ends."""
    for job in self._listed():
      job.stopped.set()

  def find(self, name: str) -> Job | None:
    """Returns the job with this name; None if there is no such job."""
    with self._lock:
      return self._jobs.get(name)

  @property
  def num_active(self) -> int:
    """The number of waiting and running jobs."""
    return sum(job.ended is None for job in self._listed())

  def tidy(self) -> None:
    """Removes old ended jobs, and the oldest ended jobs beyond the number to keep."""
    ended = sorted(
      ((job.ended, job.name) for job in self._listed() if job.ended is not None), reverse=True
    )
    oldest = time.monotonic() - self._keep_seconds
    for place, (at, name) in enumerate(ended):
      if place >= self._keep or at < oldest:
        job = self.find(name)
        if job is not None:
          self.remove(job)

  def _listed(self) -> list[Job]:
    with self._lock:
      return list(self._jobs.values())
