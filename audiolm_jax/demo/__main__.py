"""Serves a page that continues sound, plays it while it is made, and judges it.

  python -m audiolm_jax.demo
  python -m audiolm_jax.demo --bundle my_bundle --bundle speech_tiny --host 0.0.0.0 --port 8080

Ctrl-C ends it, and removes all that was uploaded and made.
"""

import logging
import signal
import threading
from collections.abc import Sequence
from typing import Any

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.streams import CODES
from audiolm_jax.demo import library
from audiolm_jax.io import plotting

FLAGS = flags.FlagValues()
flags.DEFINE_multi_string(
  "bundle", [], "Name or folder of a bundle; several times for several. Default: those that ship.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string(
  "host", "127.0.0.1", "Address to listen at; 0.0.0.0 for every one of this machine.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
  "port", None, "Port to listen at. Default: the first free one from 7860 on.", 1, 65_535,
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
  "max_duration", 30.0, "Seconds of new sound that one sample may have.", 2.0, 3600.0,
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer("max_samples", 4, "Samples of one request.", 1, 4, flag_values=FLAGS)
flags.DEFINE_float(
  "max_upload_mb", 20.0, "Size of a file that may be uploaded.", 0.1, 2000.0, flag_values=FLAGS
)
flags.DEFINE_float(
  "timeout", 180.0, "Seconds after which the making of a request is given up.", 1.0,
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
  "max_queue", 16, "Requests that may wait; further ones are refused.", 1, flag_values=FLAGS
)
flags.DEFINE_integer("concurrency", 1, "Requests that are made at a time.", 1, flag_values=FLAGS)
flags.DEFINE_bool(
  "share", False, "Make the page public through Gradio's tunnel, for a week at most.",
  flag_values=FLAGS,
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
  """Loads, compiles, and serves until it is told to end."""
  del argv
  library.check_installed()
  for client in ("httpx", "httpx2"):  # by which Gradio asks itself whether it is there
    logging.getLogger(client).setLevel(logging.WARNING)
  plotting.check_can_plot()
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.demo import server
  from audiolm_jax.demo.requests import Limits

  loaded = {}
  shipped = sorted(bundles.list_bundles(), key=lambda name: name != "speech_tiny")
  for name in FLAGS.bundle or shipped:
    bundle = bundles.load_bundle(name)
    if bundle.name in loaded:
      raise UserError(f"--bundle {name}: there is a bundle called {bundle.name} already; rename it")
    if not any(stage.spec.writes.key == CODES for stage in bundle.stages.values()):
      raise UserError(f"the bundle {bundle.name} has no stages to sample with; name another one")
    loaded[bundle.name] = bundle
  if not loaded:
    raise UserError("no bundle ships with this installation; name one with --bundle")
  limits = Limits(
    max_duration=FLAGS.max_duration,
    max_samples=FLAGS.max_samples,
    max_upload_bytes=round(FLAGS.max_upload_mb * 1e6),
    timeout=FLAGS.timeout,
  )
  print("compiling, so that the first request need not wait ...", flush=True)
  server.warm_up(loaded, limits)
  told = threading.Event()
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: told.set())
  settings: dict[str, Any] = {
    name: FLAGS[name].value for name in ("host", "port", "concurrency", "max_queue", "share")
  }
  with server.running(loaded, limits, **settings) as there:
    print(f"open {there.public_url or there.url}; Ctrl-C ends it", flush=True)
    told.wait()


if __name__ == "__main__":
  run_cli(main, FLAGS)
