"""Adds files outside docs/ to the site, and converts the links to them.

In the sources, links are paths of the repository, so that they also work there. On the site each
link leads to the page of the file.
"""

import os
import re
from pathlib import PurePosixPath
from typing import Any

# Page of the site: file of the repository.
PAGES = {
  "repository/speech.md": "audiolm_jax/bundles/speech/MODEL_CARD.md",
  "repository/piano_tiny.md": "audiolm_jax/bundles/piano_tiny/MODEL_CARD.md",
  "repository/launch.md": "launch/README.md",
  "repository/cost.md": "launch/cost.md",
  "repository/benchmarks.md": "benchmarks/README.md",
  "repository/results.md": "benchmarks/RESULTS.md",
  "repository/drift.md": "benchmarks/results/drift.md",
  "repository/drift.png": "benchmarks/results/drift.png",
  "repository/pretrained_speed.md": "benchmarks/results/pretrained.md",
  "repository/time_per_token.png": "benchmarks/results/time_per_token.png",
  "repository/demo_load.md": "benchmarks/results/demo_load.md",
  "repository/tokenizing.md": "benchmarks/results/tokenizing.md",
  "repository/tpu_compile.md": "benchmarks/results/tpu_compile.md",
  "repository/training_memory.md": "benchmarks/results/training_memory.md",
  "repository/allocator.md": "benchmarks/results/allocator.md",
  "repository/contributing.md": "CONTRIBUTING.md",
  "repository/security.md": "SECURITY.md",
  "repository/changelog.md": "CHANGELOG.md",
  "repository/examples.md": "examples/README.md",
  "repository/notebooks.md": "notebooks/README.md",
  "repository/1_continue.ipynb": "notebooks/1_continue.ipynb",
  "repository/2_train.ipynb": "notebooks/2_train.ipynb",
  "repository/3_measure_and_detect.ipynb": "notebooks/3_measure_and_detect.ipynb",
  "repository/4_inside.ipynb": "notebooks/4_inside.ipynb",
  "repository/5_speak.ipynb": "notebooks/5_speak.ipynb",
  "repository/piano.flac": "examples/piano.flac",
  "repository/speech_woman.flac": "examples/speech_woman.flac",
}
_SHOWN = {source: page for page, source in PAGES.items()}
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Any, *, config: Any) -> Any:
  """Adds the files to those of docs/."""
  from mkdocs.structure.files import File

  root = os.path.dirname(config["config_file_path"])
  for page, source in PAGES.items():
    files.append(File.generated(config, page, abs_src_path=os.path.join(root, source)))
  return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
  """Converts links between files of the repository to links between pages."""
  shown_at = page.file.src_uri
  return with_site_links(markdown, shown_at, PAGES.get(shown_at, f"docs/{shown_at}"))


def with_site_links(markdown: str, page: str, source: str) -> str:
  """Converts the links of a page.

  Args:
    markdown: text of the page.
    page: path on the site.
    source: path in the repository.

  Returns:
    The text. Links to files that are not on the site are unchanged; the strict build reports them.
  """

  def convert(match: re.Match[str]) -> str:
    target = os.path.normpath(PurePosixPath(source).parent / match[2])
    shown = _SHOWN.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
    if shown is None:
      return match[0]
    return match[1] + os.path.relpath(shown, PurePosixPath(page).parent)

  return _LINK.sub(convert, markdown)
