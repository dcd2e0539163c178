"""Measures the demo with many concurrent clients: served and refused requests, and times.

  python -m benchmarks.demo_load

Takes two to five minutes on two cores. Starts a server process; the clients send the same request
at the same moment through Gradio, and read their audio while it is sampled. Needs
requirements/extras/demo.txt.
"""

import concurrent.futures
import dataclasses
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from audiolm_jax.core.command_line import run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.demo import library
from audiolm_jax.io.files import atomic_write
from benchmarks import machine

FLAGS = flags.FlagValues()
flags.DEFINE_string("bundle", "speech", "Bundle of the demo.", flag_values=FLAGS)
flags.DEFINE_string(
  "prompt", "examples/speech_woman.flac", "Prompt of each client.", flag_values=FLAGS
)
flags.DEFINE_integer("clients", 10, "Concurrent clients.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float("duration", 7.0, "New seconds of each request.", 1.0, 30.0, flag_values=FLAGS)
flags.DEFINE_integer("max_queue", 6, "Requests that may wait.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("port", 7899, "Port of the server.", flag_values=FLAGS)
flags.DEFINE_string(
  "output", "benchmarks/results/demo_load.md", "File for the table.", flag_values=FLAGS
)
_LIVE = re.compile(r'data-live="\./([^"]+)"')
_SETTLE_SECONDS = 3.0
_POLL_SECONDS = 0.02


@dataclasses.dataclass
class Visit:
  """Result of one client; times in seconds from the common start.

  Attributes:
    began: when the client left the queue.
    first_audio: when it received its first audio, which is the prompt.
    new_audio: when it received the first audio after the prompt.
    ended: when the request was complete or refused.
    seconds: of audio that it received.
    status: last line that the page displayed.
  """

  began: float | None = None
  first_audio: float | None = None
  new_audio: float | None = None
  ended: float = 0.0
  seconds: float = 0.0
  status: str = ""

  @property
  def was_served(self) -> bool:
    """Whether the client received all of its audio."""
    return self.status.startswith("Made")


def main(argv: Sequence[str]) -> None:
  """Measures, prints and writes the table."""
  del argv
  client = library.load("gradio_client")
  if not Path(FLAGS.prompt).is_file():
    raise UserError(f"--prompt {FLAGS.prompt} does not exist")
  logging.getLogger("httpx").setLevel(logging.WARNING)
  facts = f"{machine.processor()}, {len(os.sched_getaffinity(0))} cores"
  with tempfile.TemporaryDirectory() as folder:
    server = _start(folder)
    try:
      before, load = _memory(server.pid, "VmRSS"), os.getloadavg()[0]
      visits = _crowd(client)
      peak = _memory(server.pid, "VmHWM")
      time.sleep(_SETTLE_SECONDS)
      idle = _busy_share(server.pid)
      alone = _crowd(client, 1)[0]
      after = _memory(server.pid, "VmRSS")
      is_alive = server.poll() is None and alone.was_served
    finally:
      server.send_signal(signal.SIGTERM)
      server.wait(60)
    left = sorted(os.listdir(folder))
  text = _text(visits, alone, facts, load, (before, peak, after), idle, is_alive, left)
  print(text)
  with atomic_write(FLAGS.output) as file:
    file.write(text.encode())


def _start(folder: str) -> subprocess.Popen:
  """Starts the server with its temporary files in `folder`; returns when it can be reached."""
  command = [sys.executable, "-m", "audiolm_jax.demo", "--bundle", FLAGS.bundle]
  command += ["--port", str(FLAGS.port), "--max_queue", str(FLAGS.max_queue)]
  server = subprocess.Popen(command, env=os.environ | {"TMPDIR": folder}, stdout=subprocess.DEVNULL)
  end = time.monotonic() + 300
  while time.monotonic() < end and server.poll() is None:
    try:
      urllib.request.urlopen(_url(), timeout=5).close()
      return server
    except OSError:
      time.sleep(0.5)
  server.kill()
  raise UserError(f"the demo did not start on port {FLAGS.port}; choose another with --port")


def _crowd(client: Any, count: int | None = None) -> list[Visit]:
  """Runs clients that start together; by default as many as the flag sets."""
  count = FLAGS.clients if count is None else count
  assert count is not None  # the flag has a default
  barrier = threading.Barrier(count)
  with concurrent.futures.ThreadPoolExecutor(count) as pool:
    visits = [pool.submit(_visit, client, barrier) for _ in range(count)]
    return [visit.result() for visit in visits]


def _visit(client: Any, barrier: threading.Barrier) -> Visit:
  there = client.Client(_url(), verbose=False, analytics_enabled=False)
  prompt = client.handle_file(FLAGS.prompt)
  asked = ["continuation", FLAGS.bundle, prompt, FLAGS.duration, 3.0, 0.6, 0.8, 0.6, 0, 1]
  visit, listener = Visit(), None
  barrier.wait()
  start = time.perf_counter()
  try:
    for outputs in _outputs(there.submit(*asked, api_name="/make")):
      texts = [str(output) for output in outputs]
      visit.status = re.sub("<[^>]*>", "", texts[0])
      if not visit.status.startswith("Waiting"):
        visit.began = visit.began or time.perf_counter() - start
      live = _LIVE.search(" ".join(texts))
      if live and listener is None:
        listener = threading.Thread(target=_listen, args=(live[1], visit, start))
        listener.start()
  except Exception as error:  # the client library raises various errors for a refused request
    visit.status = " ".join(str(error).split())
  if listener is not None:
    listener.join()
  visit.ended = time.perf_counter() - start
  return visit


def _outputs(job: Any) -> Iterator[Any]:
  """Yields the outputs of a job; the library's own iterator never ends for a refused job."""
  seen = 0
  while True:
    is_done = job.done()
    there = job.outputs()
    yield from there[seen:]
    seen = len(there)
    if is_done:
      job.result()  # raises the error of a refused job
      return
    time.sleep(_POLL_SECONDS)


def _listen(path: str, visit: Visit, start: float) -> None:
  with urllib.request.urlopen(_url() + path, timeout=600) as sound:
    rate = int(sound.headers["X-Sample-Rate"])
    prompt = int(sound.headers["X-Samples"]) / rate - FLAGS.duration
    while piece := sound.read1(1 << 16):
      now = time.perf_counter() - start
      visit.first_audio = visit.first_audio or now
      visit.seconds += len(piece) / 2 / rate
      if visit.seconds > prompt + 1e-6:
        visit.new_audio = visit.new_audio or now


def _url() -> str:
  return f"http://127.0.0.1:{FLAGS.port}/"


def _memory(pid: int, name: str) -> float:
  """Returns the MB of a line in /proc/PID/status."""
  for line in Path(f"/proc/{pid}/status").read_text().splitlines():
    if line.startswith(name + ":"):
      return int(line.split()[1]) / 1e3
  raise UserError(f"this system does not report {name}; run it on Linux")


def _busy_share(pid: int, seconds: float = 2.0) -> float:
  """Returns the number of cores that a process uses."""

  def used() -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

  before = used()
  time.sleep(seconds)
  return (used() - before) / seconds


def _text(
  visits: list[Visit],
  alone: Visit,
  facts: str,
  load: float,
  memory: tuple[float, float, float],
  idle: float,
  is_alive: bool,
  left: list[str],
) -> str:
  """Returns the result in Markdown."""
  served = sorted((v for v in visits if v.was_served), key=lambda v: v.ended)
  refused = [v for v in visits if not v.was_served]
  rows = "\n".join(
    f"| {place} | {v.began:.1f} | {v.first_audio:.1f} | {v.new_audio:.1f} | {v.ended:.1f} "
    f"| {v.seconds:.1f} |"
    for place, v in enumerate(served, 1)
  )
  words = "; ".join(sorted({f"“{v.status}”" for v in refused})) or "nobody"
  slowest = max((v.ended for v in refused), default=0.0)
  before, peak, after = memory
  return f"""# The demo under load

`python -m benchmarks.demo_load`: {FLAGS.clients} clients ask at the same moment for \
{FLAGS.duration:g} new seconds of `{FLAGS.bundle}` after a prompt of 3 s. One request is made at a \
time, {FLAGS.max_queue} may wait. {facts}; the load average before was {load:.1f}, and the clients \
ran on the same machine.

| | |
|---|---|
| served whole | {len(served)} of {len(visits)} |
| refused | {len(refused)}, after {slowest:.1f} s at most; message: {words} |
| memory before, peak, after | {before:.0f}, {peak:.0f}, {after:.0f} MB |
| cores busy {_SETTLE_SECONDS:g} s after the last | {idle:.2f} |
| alive afterwards, and serves | {"yes" if is_alive else "no"} |
| temporary files once it has ended | {", ".join(left) or "none"} |
| alone: first sound, first new sound, all of it | {alone.first_audio or 0:.1f}, \
{alone.new_audio or 0:.1f}, {alone.ended:.1f} s |

Seconds after the common start, of the served clients. The first audio is the prompt.

| | leaves the queue | first sound | first new sound | all of it | sound, s |
|---:|---:|---:|---:|---:|---:|
{rows}
"""


if __name__ == "__main__":
  run_cli(main, FLAGS)
