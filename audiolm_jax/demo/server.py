"""Runs the server of the page and its audio, and removes old files."""

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from audiolm_jax.bundles import Bundle, speaking
from audiolm_jax.core.errors import UserError
from audiolm_jax.demo import folders, guard, library, page, routes, speech_api
from audiolm_jax.demo.jobs import Jobs
from audiolm_jax.demo.requests import RequestLimits
from audiolm_jax.demo.turns import Turns
from audiolm_jax.demo.voices import DRAWN, Voice

_SWEEP_SECONDS = 20.0
_LAST_SECONDS = 10.0
_UPLOADS_SECONDS = 1800.0
_UPLOADS_BYTES = 1_000_000_000
_LEAST_THREADS = 40
_FIRST_CHARACTERS = 8


class Server(NamedTuple):
  """A running server.

  Attributes:
    url: URL of the page on this machine.
    public_url: URL of the page through Gradio's tunnel; None without a tunnel.
    jobs: the jobs of the server.
    turns: the queue of all requests.
  """

  url: str
  public_url: str | None
  jobs: Jobs
  turns: Turns


@contextlib.contextmanager
def running(
  bundles: Mapping[str, Bundle],
  limits: RequestLimits,
  *,
  host: str = "127.0.0.1",
  port: int | None = None,
  concurrency: int = 1,
  max_queue: int = 16,
  share: bool = False,
  allowed_hosts: Collection[str] = (),
  voices: Mapping[str, Voice] = DRAWN,
) -> Iterator[Server]:
  """Serves the page until the `with` block ends, and then removes all files of the page.

  Args:
    bundles: bundles by the names that the page shows.
    limits: limits of one request.
    host: address to listen on.
    port: port to listen on; None for the first free port from 7860.
    concurrency: number of requests that run at a time.
    max_queue: number of requests that can wait; further requests are rejected.
    share: whether Gradio's tunnel makes the page public.
    allowed_hosts: further names under which browsers reach the server, such as the name of a proxy.
    voices: voices by the names that programs use in requests.

  Raises:
    UserError: Gradio is not installed, or the server cannot listen on the port.
  """
  with folders.temporary() as folder, _uploads_in(folder):
    gr = library.load("gradio")  # reads the folder of its files from the environment at import
    middleware = library.load("starlette.middleware").Middleware
    names = guard.HostNames(host, allowed_hosts)
    sounds = folder / "sounds"
    sounds.mkdir()
    jobs = Jobs(sounds)
    turns = Turns(concurrency, max_queue)
    blocks = page.build(bundles, limits, jobs, turns)
    blocks.queue(api_open=False)
    try:
      _, url, public_url = blocks.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=limits.max_upload_bytes,
        max_threads=max(_LEAST_THREADS, concurrency + max_queue),  # requests wait in threads
        app_kwargs={
          "routes": [
            *routes.routes(jobs),
            speech_api.route(bundles, voices, limits, jobs, turns),
          ],
          "middleware": [
            middleware(guard.Guard, names=names, max_upload_bytes=limits.max_upload_bytes)
          ],
        },
        state_session_capacity=1000,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        footer_links=[],
        theme=gr.themes.Default(font="system-ui", font_mono="monospace"),
        css=page.CSS,
        head=page.HEAD,
      )
    except OSError as error:
      where = "a port from 7860 on" if port is None else f"port {port}"
      reason = " ".join(str(error).split(". ")[0].split())
      raise UserError(
        f"the server cannot listen on {where} of {host} ({reason}); choose another --port or --host"
      ) from error
    if public_url is not None:
      names.add(urlsplit(public_url).hostname or "")
    ended = threading.Event()
    sweeper = threading.Thread(target=_sweep, args=(jobs, folder, ended), daemon=True)
    sweeper.start()
    try:
      yield Server(url, public_url, jobs, turns)
    finally:
      jobs.stop_all()
      _wait(jobs)
      ended.set()
      blocks.close(verbose=False)
      sweeper.join()


def remove_old(
  folder: Path, *, keep: Collection[Path], keep_seconds: float, keep_bytes: int
) -> None:
  """Removes old files, and the oldest files beyond a total size.

  Args:
    folder: folder that is searched recursively.
    keep: files that are never removed and do not count for the total size.
    keep_seconds: seconds to keep the other files.
    keep_bytes: largest total size of the other files.
  """
  found = []
  for path in folder.rglob("*"):
    with contextlib.suppress(OSError):  # the file was removed in the meantime
      if path.is_file() and path not in keep:
        # ctime is the time of arrival; a copy may keep the modification time of its original.
        found.append((path.stat().st_ctime, path.stat().st_size, path))
  taken = 0
  for came, size, path in sorted(found, reverse=True):
    taken += size
    if taken > keep_bytes or came < time.time() - keep_seconds:
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def _uploads_in(folder: Path) -> Iterator[None]:
  """Configures Gradio to store its files below `folder`."""
  name = "GRADIO_TEMP_DIR"
  before = os.environ.get(name)
  os.environ[name] = str(folder / "uploads")
  try:
    yield
  finally:
    os.environ.pop(name)
    if before is not None:
      os.environ[name] = before


def _wait(jobs: Jobs) -> None:
  """Waits until all jobs have ended, for at most 10 s; a job that compiles can take longer."""
  end = time.monotonic() + _LAST_SECONDS
  while jobs.num_active and time.monotonic() < end:
    time.sleep(0.05)


def _sweep(jobs: Jobs, folder: Path, ended: threading.Event) -> None:
  uploads = folder / "uploads"
  examples = set(uploads.rglob("*"))  # Gradio copies the examples when the page is built
  while not ended.wait(_SWEEP_SECONDS):
    jobs.tidy()
    remove_old(uploads, keep=examples, keep_seconds=_UPLOADS_SECONDS, keep_bytes=_UPLOADS_BYTES)


def warm_up(bundles: Mapping[str, Bundle], limits: RequestLimits) -> None:
  """Compiles the programs for the page's default settings; noise is the prompt and the voice."""
  import numpy as np

  for bundle in bundles.values():
    noise = np.random.default_rng(0).normal(0.0, 0.1, 3 * bundle.sample_rate)
    seconds = min(7.0, limits.max_duration)
    stream = bundle.stream(noise, bundle.sample_rate, duration=seconds)
    waveform = np.concatenate(list(stream))
    if speaking.can_speak(bundle):
      letters = filter(str.isalpha, speaking.text_stage(bundle).characters)
      words = "".join(letters)[:_FIRST_CHARACTERS]
      for _ in bundle.stream_speech(words, voice=noise, sample_rate=bundle.sample_rate):
        pass
    if bundle.detector is not None:
      bundle.detector.detect(waveform, bundle.sample_rate)
