"""The words of the product: prose and names avoid the verbs that REFUSED lists.

Prose is every docstring, comment, name and string with a space in Python files, the comments of
configurations and scripts, the text of Markdown files outside of code, and the text of pictures and
notebooks, without outputs of cells.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[1]
FOLDERS = ("audiolm_jax", "benchmarks", "docs", "examples", "gin_configs", "launch", "notebooks")
SOURCES = (
  *(f"{folder}/**/*" for folder in (*FOLDERS, "requirements", "tasks", "tests")),
  *("*.md", "*.toml", "*.txt", "*.yml", ".ci/*", ".github/**/*"),
)

# Each pattern and the words to use instead.
REFUSED = {
  r"hear|hears|heard|hearing|unheard": "read, receive, use",
  r"say|says|said|saying": "log, print, state, contain",
  r"tell|tells|told|telling|untold": "report, show, distinguish",
  r"(?:go|goes|going|gone|went) on": "continue, resume",
  r"(?:is|are|was|were|be) gone(?! on)": "is absent, has ended",
  r"(?:is|are|was|were) no more": "is absent, was removed",
  r"(?:is|are|was|were) there|what there is": "exists, is present",
  r"mend|mends|mended|mending": "fix",
  r"judge|judges|judged|judging|judgements?": "discriminator; classify, rate",
  r"play|plays|played|playing": "update (of discriminators)",
  r"rests|discriminators rest": "is not updated",
  r"(?<!not )so many(?! \w+ that)": "the number of",
  r"shall": "must, should",
  r"one's own": "new, custom",
  r"where it is none": "if it is None",
}
PATTERNS = {re.compile(rf"(?<!\w)(?:{p})(?!\w)", re.IGNORECASE): w for p, w in REFUSED.items()}

# Words in another sense, by file or folder.
_PLAY = ("play", "plays", "played", "playing")
EXCEPTIONS: dict[str, tuple[str, ...]] = {
  "audiolm_jax/demo": _PLAY,  # of a player of audio
  "audiolm_jax/evaluation/listening": (*_PLAY, "hear", "heard"),  # of a player and its listeners
  "notebooks/4_inside.ipynb": _PLAY,  # of music
  "notebooks/README.md": _PLAY,  # of music
  "tests/demo/test_page.py": _PLAY,  # of a player of audio
  "tests/evaluation": _PLAY,  # of music
  "tests/evaluation/listening": (*_PLAY, "heard"),  # of a player and its listeners
  "tests/kinds/test_conditioned.py": ("go on",),  # in a text to speak
}


def sources() -> list[Path]:
  paths = {path for pattern in SOURCES for path in REPO.glob(pattern)}
  paths.discard(Path(__file__))  # the list itself
  return sorted(path for path in paths if path.is_file() and kind_of(path) in PROSE)


def kind_of(path: Path) -> str:
  return path.suffix or path.name


def prose_of_python(text: str) -> Iterator[tuple[int, str]]:
  """Yields the line and the text of docstrings, comments, messages and names."""
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type == tokenize.COMMENT:
      yield token.start[0], token.string
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
      yield node.lineno, node.value
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
      yield node.lineno, _words(node.name)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      yield node.lineno, _words(node.id)
    elif isinstance(node, ast.arg):
      yield node.lineno, _words(node.arg)


def _words(name: str) -> str:
  return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " "))


def prose_of_comments(text: str) -> Iterator[tuple[int, str]]:
  for number, line in enumerate(text.splitlines(), 1):
    comment = re.search(r"(?:^|\s)#(.*)", line)
    if comment:
      yield number, comment[1]


def prose_of_markdown(text: str) -> Iterator[tuple[int, str]]:
  in_code = False
  for number, line in enumerate(text.splitlines(), 1):
    if line.lstrip().startswith("```"):
      in_code = not in_code
    elif not in_code:
      yield number, re.sub(r"`[^`]*`|\]\([^)]*\)", " ", line)


def prose_of_markup(text: str) -> Iterator[tuple[int, str]]:
  for number, line in enumerate(text.splitlines(), 1):
    yield number, re.sub(r"<[^>]*>", " ", line)


def prose_of_notebook(text: str) -> Iterator[tuple[int, str]]:
  """Yields the number of the cell instead of a line."""
  for number, cell in enumerate(json.loads(text)["cells"], 1):
    prose = prose_of_python if cell["cell_type"] == "code" else prose_of_markdown
    yield from ((number, found) for _, found in prose("".join(cell["source"])))


COMMENTED = (".gin", ".sh", ".toml", ".txt", ".yaml", ".yml", "Dockerfile", "run")
PROSE = {
  ".py": prose_of_python,
  ".md": prose_of_markdown,
  ".html": prose_of_markup,
  ".svg": prose_of_markup,
  ".ipynb": prose_of_notebook,
  **dict.fromkeys(COMMENTED, prose_of_comments),
}


def refused_words(text: str, kind: str) -> list[tuple[int, str, str]]:
  """Returns the line, the word and its replacement for each refused word."""
  return [
    (line + prose[: match.start()].count("\n"), match[0], instead)
    for line, prose in PROSE[kind](text)
    for pattern, instead in PATTERNS.items()
    for match in pattern.finditer(prose)
  ]


def notebook(*, markdown: str, code: str, output: str) -> str:
  """Returns a notebook of two cells."""
  cells: list[dict[str, Any]] = [
    {"cell_type": "markdown", "source": [markdown]},
    {"cell_type": "code", "source": [code], "outputs": [{"text": [output]}]},
  ]
  return json.dumps({"cells": cells})


@pytest.fixture(scope="module")
def found() -> list[tuple[str, int, str, str]]:
  """Returns the file, the line, the word and its replacement for each refused word."""
  return [
    (path.relative_to(REPO).as_posix(), *match)
    for path in sources()
    for match in refused_words(path.read_text(encoding="utf-8"), kind_of(path))
  ]


def test_the_words_of_the_product_are_plain(found):
  wrong = [
    f"{name}:{line}: {word!r}; write {instead}"
    for name, line, word, instead in found
    if not any(name.startswith(p) and word.lower() in w for p, w in EXCEPTIONS.items())
  ]
  assert not wrong, "\n".join(wrong)


def test_exceptions_are_needed(found):
  needed = {
    place
    for place, words in EXCEPTIONS.items()
    for name, _, word, _ in found
    if name.startswith(place) and word.lower() in words
  }
  assert needed == set(EXCEPTIONS), f"remove {set(EXCEPTIONS) - needed}"


@pytest.mark.parametrize(
  ("kind", "text", "words"),
  [
    (".py", '"""It says so.\n\nThe judges play."""', ["says", "judges", "play"]),
    (".py", "x = 1  # a run that is gone on with", ["gone on"]),
    (".py", 'raise ValueError(f"{x} shall be {y}")', ["shall"]),
    (".py", "def hear(told): heard = UnheardClip", ["hear", "told", "heard"]),
    (".py", "class HeardClip: pass", ["Heard"]),
    (".py", 'key = "says"', []),
    (".py", "# essays, tellers, marshall; there is one; not so many", []),
    (".gin", "# What it tells\nX = 1  # and mends", ["tells", "mends"]),
    (".sh", 'echo "$#"  # goes on', ["goes on"]),
    (".py", "# the run is gone", ["is gone"]),
    ("Dockerfile", "RUN mend  # it tells", ["tells"]),
    (".svg", '<text class="says">it judges</text>', ["judges"]),
    (
      ".ipynb",
      notebook(markdown="It says so.", code="# it told", output="heard"),
      ["says", "told"],
    ),
    (".md", "It `says` so.\n```\nheard\n```\nIt is there.", ["is there"]),
  ],
)
def test_refused_words_are_found_in_prose_only(kind, text, words):
  assert sorted(word for _, word, _ in refused_words(text, kind)) == sorted(words)
