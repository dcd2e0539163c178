"""The words of the product: prose and names avoid the verbs that REFUSED lists.

Prose is every docstring, comment and string with a space in Python files, the comments of gin and
shell files, and the text of Markdown files outside of code.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
SOURCES = (
  *("audiolm_jax/**/*.py", "launch/*.py", "tasks/*.py"),
  *("gin_configs/**/*.gin", "launch/*.sh", "docs/**/*.md", "README.md"),
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

# Words that name something else, by file or folder.
EXCEPTIONS = {
  "audiolm_jax/demo": ("play", "plays", "played", "playing"),  # of audio
  "audiolm_jax/evaluation/listening": ("play", "plays", "played", "playing"),  # of audio
}


def sources() -> list[Path]:
  paths = {path for pattern in SOURCES for path in REPO.glob(pattern)}
  return sorted(paths)


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


PROSE = {
  ".py": prose_of_python,
  ".gin": prose_of_comments,
  ".sh": prose_of_comments,
  ".md": prose_of_markdown,
}


def refused_words(text: str, suffix: str) -> list[tuple[int, str, str]]:
  """Returns the line, the word and its replacement for each refused word."""
  return [
    (line + prose[: match.start()].count("\n"), match[0], instead)
    for line, prose in PROSE[suffix](text)
    for pattern, instead in PATTERNS.items()
    for match in pattern.finditer(prose)
  ]


def test_the_words_of_the_product_are_plain():
  found = []
  for path in sources():
    name = path.relative_to(REPO).as_posix()
    allowed = {w for place, words in EXCEPTIONS.items() if name.startswith(place) for w in words}
    for line, word, instead in refused_words(path.read_text(encoding="utf-8"), path.suffix):
      if word.lower() not in allowed:
        found.append(f"{name}:{line}: {word!r}; write {instead}")
  assert not found, "\n".join(found)


def test_listed_places_exist():
  missing = [place for place in EXCEPTIONS if not (REPO / place).exists()]
  assert not missing, f"remove from the lists: {missing}"


@pytest.mark.parametrize(
  ("suffix", "text", "words"),
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
    (".md", "It `says` so.\n```\nheard\n```\nIt is there.", ["is there"]),
  ],
)
def test_refused_words_are_found_in_prose_only(suffix, text, words):
  assert sorted(word for _, word, _ in refused_words(text, suffix)) == sorted(words)
