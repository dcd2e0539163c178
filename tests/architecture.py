"""The rooms of the package, who imports whom, and figures about the code.

  python -m tests.architecture

prints a table of the figures. `test_architecture.py` tests the limits.
"""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.shapes import UNCHECKED

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "audiolm_jax"

# A room may import those to the left of it; rooms of one entry do not import each other.
ORDER = (
  ("core",),
  ("io", "dsp"),
  ("chunking", "lm.tokens"),
  ("codec", "semantic", "lm"),
  ("detection",),
  ("sampling", "pretrained"),
  ("bundles",),
  ("data",),
  ("trainables",),
  ("evaluation", "demo", "diagnosis"),
  ("commands",),
)
_PLACE = {room: place for place, rooms in enumerate(ORDER) for room in rooms}
# The trainer knows no models: it imports these only, and data and what stands right of it may
# import it.
_TRAINING_IMPORTS = ("core", "io")
_COMMANDS = (
  "aot_compile",
  "cache_tokens",
  "convert",
  "decode",
  "detect",
  "doctor",
  "encode",
  "eval",
  "export_bundle",
  "export_outputs",
  "fit_kmeans",
  "fit_quantizer",
  "listening_test",
  "make_detection_corpus",
  "make_watermark",
  "sample",
  "train",
  "transcribe",
)


def modules() -> dict[str, Path]:
  """Returns every module of the package by its dotted name."""
  found = {}
  for path in sorted((REPOSITORY / PACKAGE).rglob("*.py")):
    name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    found[name.removesuffix(".__init__")] = path
  return found


def imports(name: str, known: dict[str, Path]) -> set[str]:
  """Returns the modules of the package that a module imports anywhere, also for type checking."""
  found = set()
  for node in ast.walk(ast.parse(known[name].read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{name} has a relative import"
      names = [
        full if (full := f"{node.module}.{alias.name}") in known else str(node.module)
        for alias in node.names
      ]
    else:
      continue
    found |= {other for other in names if other in known and other != name}
  return found


def import_graph() -> dict[str, set[str]]:
  """Returns the imports of every module."""
  known = modules()
  return {name: imports(name, known) for name in known}


def room(module: str) -> str:
  """Returns the room that a module belongs to."""
  parts = module.split(".")[1:]
  if parts[:2] == ["lm", "tokens"]:
    return "lm.tokens"
  if (len(parts) == 1 and parts[0] in _COMMANDS) or not parts:
    return "commands"
  return parts[0]


def is_allowed(importer: str, imported: str) -> bool:
  """Returns whether a module may import another one."""
  here, there = room(importer), room(imported)
  if here == there:
    return True
  if here == "training":
    return there in _TRAINING_IMPORTS
  if there == "training":
    return _PLACE[here] >= _PLACE["data"]
  return _PLACE[there] < _PLACE[here]


def forbidden_imports() -> list[str]:
  """Returns "importer -> imported" for each import against the order."""
  return sorted(
    f"{importer} -> {imported}"
    for importer, found in import_graph().items()
    for imported in found
    if not is_allowed(importer, imported)
  )


def top_level_modules() -> set[str]:
  """Returns the modules directly in the package."""
  return {path.stem for path in (REPOSITORY / PACKAGE).glob("*.py")}


def loaded_by(module: str) -> set[str]:
  """Returns the modules of the package that importing one may load, itself included."""
  graph, found, waiting = import_graph(), set(), [module]
  while waiting:
    name = waiting.pop()
    if name not in found:
      found.add(name)
      waiting += graph[name]
  return found


def public_classes() -> dict[str, list[str]]:
  """Returns the modules that define each public class of the package."""
  found: dict[str, list[str]] = {}
  for module, path in modules().items():
    for node in ast.parse(path.read_text()).body:
      if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        found.setdefault(node.name, []).append(module)
  return found


def code_lines(path: Path) -> int:
  """Counts the lines of a file without blank lines, comments and docstrings."""
  source = path.read_text()
  lines = set()
  skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type not in skipped and token.type != tokenize.ENDMARKER:
      lines |= set(range(token.start[0], token.end[0] + 1))
  for node in ast.walk(ast.parse(source)):
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    if (
      isinstance(first, ast.Expr)
      and isinstance(first.value, ast.Constant)
      and isinstance(first.value.value, str)
    ):
      lines -= set(range(first.lineno, (first.end_lineno or 0) + 1))
  return len(lines)


def files_that_name_stages() -> list[str]:
  """Returns the modules whose code names one of the stages "semantic", "coarse" and "fine".

  "coarse" and "fine" name nothing else. "semantic" is also a stream and a component of a bundle, so
  it counts only where the code around it speaks of stages; see `names_stage`.
  """
  return [name for name, path in modules().items() if names_stage(path.read_text())]


def names_stage(source: str) -> bool:
  """Returns whether code names a stage.

  A literal "coarse" or "fine" does, and so do names with "_stage" after them or "temperature_"
  before them. A literal "semantic" or the constant SEMANTIC does if it is looked up in, compared
  with, passed or assigned to something whose name contains "stage" or "spec".
  """
  of_stages = re.compile(r"(semantic|coarse|fine)_stage|temperature_(semantic|coarse|fine)")
  for node in ast.walk(ast.parse(source)):
    text = node.value if isinstance(node, ast.Constant) else None
    if isinstance(text, str) and (text in ("coarse", "fine") or of_stages.fullmatch(text)):
      return True
    owners, values = _owners_and_values(node)
    if any(map(_is_semantic, values)) and any(map(_speaks_of_stages, owners)):
      return True
  return False


def _owners_and_values(node: ast.AST) -> tuple[Sequence[ast.AST], Sequence[ast.AST]]:
  """Returns what values are looked up in, compared with, passed or assigned to, and the values."""
  match node:
    case ast.Subscript():
      return [node.value], [node.slice]
    case ast.Call():
      return [node.func], [*node.args, *(keyword.value for keyword in node.keywords)]
    case ast.Compare():
      sides = [node.left, *node.comparators]
      return sides, sides
    case ast.Assign():
      return list(node.targets), _entries(node.value)
    case ast.AnnAssign() if node.value is not None:
      return [node.target], _entries(node.value)
    case ast.For() | ast.comprehension():
      return [node.target], _entries(node.iter)
    case _:
      return [], []


def _entries(value: ast.AST) -> list[ast.AST]:
  """Returns a value, and the keys or entries of a display."""
  keys = [key for key in value.keys if key is not None] if isinstance(value, ast.Dict) else []
  entries = value.elts if isinstance(value, ast.Tuple | ast.List | ast.Set) else []
  return [value, *keys, *entries]


def _is_semantic(node: ast.AST) -> bool:
  if isinstance(node, ast.Name):
    return node.id == "SEMANTIC"
  return isinstance(node, ast.Constant) and node.value == "semantic"


def _speaks_of_stages(node: ast.AST) -> bool:
  """Returns whether the name of an expression, or of the owner of its method, is of stages."""
  if isinstance(node, ast.Call):
    node = node.func
  if isinstance(node, ast.Attribute) and node.attr in ("get", "index", "keys", "name", "pop"):
    node = node.value
  name = getattr(node, "attr", getattr(node, "id", ""))
  # SemanticSpec describes a tokenizer.
  return bool(re.search("stage|spec", name, re.I)) and name != "SemanticSpec"


def files_that_test_kinds() -> list[str]:
  """Returns the modules outside of lm and sampling that test for a concrete kind of stage."""
  kinds = {"AutoregressiveSpec", "ParallelSpec", "ConditionedSpec"}
  return [
    name
    for name, path in modules().items()
    if room(name) not in ("lm", "sampling")
    and any(
      isinstance(node, ast.Call)
      and isinstance(node.func, ast.Name)
      and node.func.id == "isinstance"
      and kinds & {x.id for x in ast.walk(node.args[1]) if isinstance(x, ast.Name)}
      for node in ast.walk(ast.parse(path.read_text()))
    )
  ]


def lengths_in_containers(module: str) -> list[str]:
  """Returns the shapes of items of containers in which a named axis is a length.

  One item of a container, drawn at random, is checked: clips of unequal lengths would fail by
  chance. A name that begins with an underscore binds nothing.
  """
  containers = ["Iterable", "Iterator", "Generator", "Sequence", "Mapping", "list", "dict"]
  lengths = {"samples", "block", "piece", "frames", "steps", "inside", "prompt_samples", "length"}
  tree = ast.parse(modules()[module].read_text())
  return [
    f"{module}: {text.value}"
    for container in ast.walk(tree)
    if isinstance(container, ast.Subscript)
    and ast.unparse(container.value).rpartition(".")[2] in containers
    for array in ast.walk(container.slice)
    if isinstance(array, ast.Subscript) and isinstance(array.slice, ast.Tuple)
    for text in array.slice.elts[1:]
    if isinstance(text, ast.Constant)
    and isinstance(text.value, str)
    and lengths & set(text.value.split())
  ]


def classes(path: Path) -> int:
  """Counts the classes of a file."""
  return sum(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(path.read_text())))


def _pyproject() -> dict[str, Any]:
  return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]


def checked_packages() -> list[str]:
  """Returns the packages in which the tests check the types and shapes of signatures."""
  options = _pyproject()["pytest"]["ini_options"]["addopts"]
  [packages] = [x for x in options if x.startswith("--jaxtyping-packages=")]
  return packages.partition("=")[2].split(",")[:-1]  # the last one is the check


def is_checked(module: str) -> bool:
  """Returns whether the tests check the signatures of a module."""
  return module not in UNCHECKED and any(
    f"{module}.".startswith(f"{package}.") for package in checked_packages()
  )


def shapes(module: str) -> list[bool]:
  """Returns for each annotated shape of a module whether the tests check the code around it.

  Functions and classes with the decorator `no_type_check` are not checked.
  """
  tree = ast.parse(modules()[module].read_text())
  names = {
    alias.name
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping"
    for alias in node.names
  }
  found = []

  def visit(node: ast.AST, checked: bool) -> None:
    decorators = getattr(node, "decorator_list", [])
    checked = checked and "no_type_check" not in map(ast.unparse, decorators)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in names:
      found.append(checked)
    for child in ast.iter_child_nodes(node):
      visit(child, checked)

  visit(tree, is_checked(module))
  return found


def _count(pattern: str) -> int:
  return sum(len(re.findall(pattern, path.read_text())) for path in modules().values())


def figures() -> Iterator[tuple[str, object]]:
  """Yields the rows of the table."""
  known = modules()
  yield "imports against the order", len(forbidden_imports())
  loaded = loaded_by(f"{PACKAGE}.trainables.stage")
  yield "loaded to train a stage: modules", len(loaded)
  yield "loaded to train a stage: code lines", sum(code_lines(known[name]) for name in loaded)
  yield "modules directly in the package", len(top_level_modules())
  yield "files that name a stage", len(files_that_name_stages())
  yield "files that test for a kind of stage", len(files_that_test_kinds())
  chunking = [path for name, path in known.items() if room(name) == "chunking"]
  yield "chunking: classes", sum(map(classes, chunking))
  yield "chunking: code lines", sum(map(code_lines, chunking))
  yield (
    "code lines without evaluation and demo",
    sum(code_lines(p) for n, p in known.items() if room(n) not in ("evaluation", "demo")),
  )
  yield "code lines in all", sum(map(code_lines, known.values()))
  yield "uses of Any", _count(r"\bAny\b")
  pyright = _pyproject()["pyright"]
  rules = [rule for rule, value in pyright.items() if value in (False, "none")]
  yield "rules of types that are off everywhere", len(rules)
  yield "files with a rule of types off", _count(r"(?m)^# pyright: \w+=(?:false|none)$")
  strict = [REPOSITORY / path for path in pyright["strict"]]
  checked = [path for path in known.values() if any(path.is_relative_to(s) for s in strict)]
  yield (
    "files with strict types",
    f"{len(checked)} of {len(known)}, {len(checked) / len(known):.0%}",
  )
  yield "code lines with strict types", sum(map(code_lines, checked))
  yield "ignored errors of types", _count(r"type: ignore|pyright: ignore")
  annotated = [checked for name in known for checked in shapes(name)]
  yield "shapes in annotations", len(annotated)
  yield "shapes in annotations that the tests check", sum(annotated)
  yield "words of the README", len((REPOSITORY / "README.md").read_text().split())


def main() -> None:
  """Prints the table."""
  for name, value in figures():
    print(f"{name:44} {value}")


if __name__ == "__main__":
  main()
