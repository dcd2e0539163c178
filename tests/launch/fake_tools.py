"""Programs that only note how they were called, to stand where a script looks for the real ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
NOTE = """#!{python} -SE
import json, os, sys
stdin = "" if sys.stdin.isatty() else sys.stdin.read()
call = [os.path.basename(sys.argv[0]), *sys.argv[1:], *([stdin] if stdin else [])]
with open({calls!r}, "a") as file:
  file.write(json.dumps(call) + "\\n")
"""


def run_script(name, *arguments, path=None, **environment):
  """Runs launch/`name`; `path` is a folder of programs that come before the real ones."""
  environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | environment
  environment.setdefault("PYTHON", "python")
  if path:
    environment["PATH"] = f"{path}:{environment['PATH']}"
  return subprocess.run(
    [REPO / "launch" / name, *map(str, arguments)],
    env=environment,
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=300,
  )


def make_fakes(folder, *names):
  """A folder with programs of these names."""
  folder.mkdir()
  text = NOTE.format(python=sys.executable, calls=str(folder / "calls"))
  for name in names:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
  return folder


def calls(folder):
  """What the programs in the folder were called with, in order; what they read comes last."""
  return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
