"""The memory of the demo is bounded, and a job ends when it is stopped."""

import time

import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.demo.jobs import Jobs, Sample, StoppedError


def test_jobs_that_ended_go_when_they_are_too_many(tmp_path):
  jobs = Jobs(tmp_path, keep=2)
  ended = [jobs.begin(f"session {i}", 60.0) for i in range(4)]
  for job in ended:
    jobs.end(job)
  going = jobs.begin("another", 60.0)
  assert {path.name for path in tmp_path.iterdir()} == {j.name for j in (*ended[2:], going)}
  assert jobs.find(ended[0].name) is None and jobs.find(ended[3].name) is ended[3]
  assert jobs.num_active == 1


def test_jobs_that_ended_go_when_they_are_old(tmp_path):
  jobs = Jobs(tmp_path, keep_seconds=0.01)
  jobs.end(jobs.begin("session", 60.0))
  going = jobs.begin("another", 60.0)
  time.sleep(0.02)
  jobs.tidy()
  assert [path.name for path in tmp_path.iterdir()] == [going.name]


def test_a_job_that_is_removed_leaves_no_files(tmp_path):
  jobs = Jobs(tmp_path)
  job = jobs.begin("me", 60.0)
  jobs.remove(job)
  assert jobs.find(job.name) is None and not [*tmp_path.iterdir()] and jobs.num_active == 0
  with pytest.raises(StoppedError):
    job.check()


def test_a_session_stops_its_own_jobs_only(tmp_path):
  jobs = Jobs(tmp_path)
  mine, theirs = jobs.begin("me", 60.0), jobs.begin("them", 60.0)
  jobs.stop("me")
  with pytest.raises(StoppedError):
    mine.check("coarse", 64, 128)
  theirs.check("coarse", 64, 128)
  again = jobs.begin("them", 60.0)
  with pytest.raises(StoppedError):
    theirs.check()
  again.check()


def test_a_job_that_takes_too_long_raises_an_error(tmp_path):
  job = Jobs(tmp_path).begin("me", 0.01)
  time.sleep(0.02)
  job.check()  # the time in the queue does not count
  job.start()
  time.sleep(0.02)
  with pytest.raises(UserError, match=r"longer than 0\.01 s"):
    job.check()


def test_a_sample_gives_what_came_since():
  sample = Sample(16_000, 6)
  sample.add(np.array([0.0, 1.0]))
  assert sample.since(0) == b"\x00\x00\xff\x7f"
  sample.add(np.array([-1.0]))
  assert sample.since(4) == b"\x01\x80" and sample.seconds == 3 / 16_000
