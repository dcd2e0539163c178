"""Executes the notebooks and stores them with what they put out.

  python notebooks/run.py                   all of them
  python notebooks/run.py 1_continue        one
  python notebooks/run.py --repository OWNER/NAME    only names another repository in all of them

What differs from machine to machine is left out: times, folders, the kernel's name. Pictures are
stored with a palette of 256 colours, half as large.
"""

import argparse
import base64
import io
import os
import re
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import nbclient
import nbformat
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).resolve().parent
CHECKOUT = FOLDER.parent
NAMES = ("1_continue", "2_train", "3_measure_and_detect", "4_inside", "5_speak")
SECONDS = 1800  # longest time of a cell
COLOURS = 256
_METADATA = {
  "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
  "language_info": {"name": "python"},
}


def main(argv: list[str]) -> None:
  """Executes each notebook that is named, in a folder of its own, and writes it back."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all")
  parser.add_argument("--repository", metavar="OWNER/NAME", help="name this one, execute nothing")
  given = parser.parse_args(argv)
  unknown = set(given.names) - set(NAMES)
  if unknown:
    parser.error(f"no notebook {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
  if given.repository:
    name_repository(given.repository)
    return
  for name in given.names or NAMES:
    started = time.monotonic()
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
      clean(execute(notebook, folder), folder)
    nbformat.write(notebook, FOLDER / f"{name}.ipynb")
    size = (FOLDER / f"{name}.ipynb").stat().st_size
    print(f"{name}: {time.monotonic() - started:.0f} s, {size / 1e6:.2f} MB", flush=True)


def execute(notebook: NotebookNode, folder: str | os.PathLike[str]) -> NotebookNode:
  """Runs all cells by this Python, in place.

  Args:
    folder: where they run and leave their files.

  Raises:
    nbclient.exceptions.CellExecutionError: a cell has failed.
  """
  path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
  client = nbclient.NotebookClient(
    notebook,
    timeout=SECONDS,
    kernel_name="python3",
    resources={"metadata": {"path": str(folder)}},
  )
  # The kernel's Python is this one, whichever "python3" names elsewhere.
  client.create_kernel_manager()
  client.km.kernel_spec.argv[0] = sys.executable
  settings = {"PYTHONPATH": path, "IPYTHONDIR": str(Path(folder, ".ipython"))}
  return client.execute(env=os.environ | settings)


def clean(notebook: NotebookNode, folder: str | os.PathLike[str]) -> NotebookNode:
  """Leaves out what differs from machine to machine, in place.

  Args:
    folder: where the cells ran.

  Raises:
    ValueError: a cell has warned; nothing is to be hidden.
  """
  notebook.metadata = nbformat.from_dict(_METADATA)
  for cell in notebook.cells:
    tags = cell.metadata.get("tags")
    cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
    for output in cell.get("outputs", ()):
      if output.get("name") == "stderr":
        raise ValueError(f"a cell has warned:\n{cell.source}\n{output.text}")
      if "text" in output:
        output.text = _without_folders(output.text, folder)
      if "metadata" in output:
        output.metadata = nbformat.from_dict({})
      data = output.get("data", {})
      for kind, content in data.items():
        if kind == "image/png":
          data[kind] = _with_palette(content)
        elif kind.startswith("text/"):
          data[kind] = _without_folders(content, folder)
  return notebook


def _without_folders(text: str, folder: str | os.PathLike[str]) -> str:
  for path in (os.path.realpath(folder), str(folder), str(CHECKOUT)):
    text = text.replace(f"{path}{os.sep}", "")
  return text


def _with_palette(encoded: str) -> str:
  picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
  smaller = io.BytesIO()
  picture = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
  picture.save(smaller, format="png", optimize=True)
  return base64.b64encode(smaller.getvalue()).decode()


def repository() -> str:
  """The project's address, which is kept in pyproject.toml."""
  project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
  return project["project"]["urls"]["Repository"]


def name_repository(name: str) -> None:
  """Writes OWNER/NAME on GitHub into pyproject.toml and the notebooks."""
  if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
    raise SystemExit(f"error: --repository {name} is not OWNER/NAME")
  old = repository().removeprefix("https://github.com/")
  paths = [CHECKOUT / "pyproject.toml", *(FOLDER / f"{notebook}.ipynb" for notebook in NAMES)]
  for path in paths:
    text = path.read_text()
    for before in ("https://github.com/", "https://colab.research.google.com/github/"):
      text = re.sub(rf"{re.escape(before + old)}(?![\w.-])", before + name, text)
    path.write_text(text)


if __name__ == "__main__":
  main(sys.argv[1:])
