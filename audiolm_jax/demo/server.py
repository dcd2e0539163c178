"""A running server: the page, the routes of its sound, and what is swept away behind it."""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from audiolm_jax.bundles import Bundle
from audiolm_jax.demo import library, page, routes
from audiolm_jax.demo.jobs import Jobs
from audiolm_jax.demo.requests import Limits

_SWEEP_SECONDS = 20.0
_LAST_SECONDS = 10.0
_UPLOADS_SECONDS = 1800.0
_UPLOADS_BYTES = 1_000_000_000


class Server(NamedTuple):
  """One that runs.

  Attributes:
    url: of the page, on this machine.
    public_url: through Gradio's tunnel; None unless that was asked for.
    jobs: what is made there.
  """

  url: str
  public_url: str | None
  jobs: Jobs


@contextlib.contextmanager
def running(
  bundles: Mapping[str, Bundle],
  limits: Limits,
  *,
  host: str = "127.0.0.1",
  port: int | None = None,
  concurrency: int = 1,
  max_queue: int = 16,
  share: bool = False,
) -> Iterator[Server]:
  """Serves the page until the block ends; then nothing of it is left on disk.

  Args:
    port: to listen at; None for the first free one from 7860 on.
    concurrency: requests that are made at a time.
    max_queue: requests that may wait; further ones are refused.
    share: whether Gradio's tunnel makes the page public.
  Raises:
    UserError: Gradio is not installed.
  """
  with tempfile.TemporaryDirectory(prefix="audiolm_jax_demo_") as folder, _uploads_in(folder):
    gr = library.load("gradio")  # reads at import where its files go
    sounds = Path(folder) / "sounds"
    sounds.mkdir()
    jobs = Jobs(sounds)
    blocks = page.build(bundles, limits, jobs, concurrency)
    blocks.queue(max_size=max_queue, default_concurrency_limit=concurrency, api_open=False)
    _, url, public_url = blocks.launch(
      server_name=host,
      server_port=port,
      share=share,
      prevent_thread_lock=True,
      quiet=True,
      max_file_size=limits.max_upload_bytes,
      app_kwargs={"routes": routes.routes(jobs)},
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
    ended = threading.Event()
    sweeper = threading.Thread(target=_sweep, args=(jobs, Path(folder), ended), daemon=True)
    sweeper.start()
    try:
      yield Server(url, public_url, jobs)
    finally:
      jobs.stop_all()
      _wait(jobs)
      ended.set()
      blocks.close(verbose=False)
      sweeper.join()


def remove_old(
  folder: Path, *, keep: Collection[Path], keep_seconds: float, keep_bytes: int
) -> None:
  """Removes files that came long ago, and the oldest of those that take up too much.

  Args:
    keep: files that stay, and do not count.
    keep_seconds: how long the others stay.
    keep_bytes: how much they may take up together.
  """
  found = []
  for path in folder.rglob("*"):
    with contextlib.suppress(OSError):  # gone meanwhile
      if path.is_file() and path not in keep:
        # When it came here; a copy may keep the time at which its original was changed.
        found.append((path.stat().st_ctime, path.stat().st_size, path))
  taken = 0
  for came, size, path in sorted(found, reverse=True):
    taken += size
    if taken > keep_bytes or came < time.time() - keep_seconds:
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def _uploads_in(folder: str) -> Iterator[None]:
  """Gradio keeps its files below `folder`."""
  name = "GRADIO_TEMP_DIR"
  before = os.environ.get(name)
  os.environ[name] = os.path.join(folder, "uploads")
  try:
    yield
  finally:
    os.environ.pop(name)
    if before is not None:
      os.environ[name] = before


def _wait(jobs: Jobs) -> None:
  """Until nothing is being made; what takes longer, such as compiling, is not waited for."""
  end = time.monotonic() + _LAST_SECONDS
  while jobs.going and time.monotonic() < end:
    time.sleep(0.05)


def _sweep(jobs: Jobs, folder: Path, ended: threading.Event) -> None:
  uploads = folder / "uploads"
  examples = set(uploads.rglob("*"))  # Gradio copied them when the page was built
  while not ended.wait(_SWEEP_SECONDS):
    jobs.tidy()
    remove_old(uploads, keep=examples, keep_seconds=_UPLOADS_SECONDS, keep_bytes=_UPLOADS_BYTES)


def warm_up(bundles: Mapping[str, Bundle], limits: Limits) -> None:
  """Compiles what a first request would wait for: the page's own settings, with noise as prompt."""
  import numpy as np

  for bundle in bundles.values():
    noise = np.random.default_rng(0).normal(0.0, 0.1, 3 * bundle.sample_rate)
    settings: Any = {"duration": min(7.0, limits.max_duration)}
    waveform = np.concatenate(list(bundle.stream(noise, bundle.sample_rate, **settings)))
    if bundle.detector is not None:
      bundle.detector.detect(waveform, bundle.sample_rate)
