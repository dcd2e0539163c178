"""Serves a web page that continues audio and speaks texts, and a speech API for programs.

  python -m audiolm_jax.demo
  python -m audiolm_jax.demo --bundle my_bundle --bundle speech --host 0.0.0.0 --port 8080

Ctrl-C ends the server and removes all uploaded and created files. If a server was killed, the next
start removes its files, except on Windows. The page has no password: with --host 0.0.0.0 or
--share, everybody who reaches the page can use it.
"""

import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.streams import CODES
from audiolm_jax.demo import library
from audiolm_jax.io import plotting

FLAGS = flags.FlagValues()
flags.DEFINE_multi_string(
  "bundle", [],
  "Name or folder of a bundle; repeat for several. Default: the shipped bundles that use no parts "
  "of others.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string(
  "host", "127.0.0.1", "Address to listen on; 0.0.0.0 for all addresses of this machine.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
  "port", None, "Port to listen on. Default: the first free port from 7860.", 1, 65_535,
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
  "max_duration", 30.0, "Maximum seconds of new audio per sample.", 2.0, 3600.0,
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
  "max_samples", 4, "Maximum number of samples per request.", 1, 4, flag_values=FLAGS
)
flags.DEFINE_float(
  "max_upload_mb", 20.0, "Largest size of an uploaded file.", 0.1, 2000.0, flag_values=FLAGS
)
flags.DEFINE_integer("max_characters", 500, "Longest text to speak.", 1, 100_000, flag_values=FLAGS)
flags.DEFINE_string(
  "voices", None,
  "A folder with a recording of each voice that programs can name, such as anna.wav.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
  "timeout", 180.0, "Seconds after which a request is aborted.", 1.0,
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
  "max_queue",
  16,
  "Maximum number of waiting requests; further requests are rejected.",
  1,
  flag_values=FLAGS,
)
flags.DEFINE_integer("concurrency", 1, "Requests that run at a time.", 1, flag_values=FLAGS)
flags.DEFINE_multi_string(
  "allowed_host", [],
  "Further name under which browsers reach the server, such as a proxy's; repeat for several.",
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_bool(
  "share", False, "Make the page public through Gradio's tunnel, for at most a week.",
  flag_values=FLAGS,
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
  """Loads and compiles the bundles, and serves the page until a signal ends the program."""
  del argv
  library.check_installed()
  for client in ("httpx", "httpx2"):  # Gradio uses it to check whether its server runs
    logging.getLogger(client).setLevel(logging.WARNING)
  plotting.check_can_plot()
  compilation_cache.enable()
  from audiolm_jax import bundles
  from audiolm_jax.bundles import inspection, speaking
  from audiolm_jax.demo import guard, server, voices
  from audiolm_jax.demo.requests import RequestLimits
  from audiolm_jax.demo.speech_api import PATH

  loaded = {}
  shipped = [name for name in bundles.list_bundles() if not inspection.shares_parts(name)]
  for name in FLAGS.bundle or sorted(shipped, key=lambda name: name != "speech"):
    bundle = bundles.load_bundle(name)
    if bundle.name in loaded:
      raise UserError(f"--bundle {name}: another bundle has the name {bundle.name}; rename one")
    if not any(stage.spec.writes.key == CODES for stage in bundle.stages.values()):
      raise UserError(f"the bundle {bundle.name} has no stages to sample with; name another one")
    loaded[bundle.name] = bundle
  if not loaded:
    raise UserError("no bundle ships with this installation; name one with --bundle")
  limits = RequestLimits(
    max_duration=FLAGS.max_duration,
    max_samples=FLAGS.max_samples,
    max_upload_bytes=round(FLAGS.max_upload_mb * 1e6),
    max_characters=FLAGS.max_characters,
    timeout=FLAGS.timeout,
  )
  can_speak = any(map(speaking.can_speak, loaded.values()))
  known = voices.DRAWN
  if FLAGS.voices is not None:
    if not can_speak:
      raise UserError(f"--voices {FLAGS.voices}: no bundle has a text stage; omit it")
    known = voices.read_voices(Path(FLAGS.voices))
  print("compiling, so that the first request does not wait ...", flush=True)
  server.warm_up(loaded, limits)
  stop = threading.Event()
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())
  settings: dict[str, Any] = {
    name: FLAGS[name].value for name in ("host", "port", "concurrency", "max_queue", "share")
  }
  settings |= {"allowed_hosts": FLAGS.allowed_host, "voices": known}
  if FLAGS.share or not guard.is_local(FLAGS.host):
    print(
      "warning: the page has no password; everybody who reaches it can use it. Use --host "
      "127.0.0.1 for this machine alone, or put a proxy with a password before it.",
      file=sys.stderr,
    )
  with server.running(loaded, limits, **settings) as running:
    url = running.public_url or running.url
    if can_speak:
      print(f"programs: POST {url.rstrip('/')}{PATH}; voices: {', '.join(known)}")
    print(f"open {url}; Ctrl-C ends it", flush=True)
    stop.wait()


if __name__ == "__main__":
  run_cli(main, FLAGS)
