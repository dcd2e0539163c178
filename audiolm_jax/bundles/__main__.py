"""Lists, inspects, verifies, uploads and downloads bundles.

  python -m audiolm_jax.bundles list [FOLDER...]
  python -m audiolm_jax.bundles info speech
  python -m audiolm_jax.bundles verify runs/my_bundle
  python -m audiolm_jax.bundles push runs/my_bundle USER/NAME
  python -m audiolm_jax.bundles pull USER/NAME my_bundle

list prints the shipped bundles and the bundles in the given folders. info describes a bundle and
its parts. verify compares every part with its stored hash and loads the bundle; the exit code is 1
if the bundle is damaged. push and pull use the Hugging Face hub and require huggingface_hub. push
creates private repositories; the owner can make a repository public on the hub. Existing bundles
are replaced only with --overwrite.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from audiolm_jax.core.command_line import flags, run_cli, takes_arguments
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import BundleError, UserError
from audiolm_jax.core.plain_json import is_list, is_mapping

FLAGS = flags.FlagValues()
flags.DEFINE_bool("overwrite", False, "push, pull: replace an existing bundle.", flag_values=FLAGS)
flags.DEFINE_string(
  "revision", None, "pull: branch, tag or commit; default the newest.", flag_values=FLAGS
)


@takes_arguments
def main(argv: Sequence[str]) -> int | None:
  """Runs the command that the first argument names."""
  if len(argv) < 2:
    raise UserError(f"give a command: {', '.join(_COMMANDS)}; see --help")
  command, arguments = argv[1], argv[2:]
  if command not in _COMMANDS:
    raise UserError(f"{command!r} is not a command; the commands are {', '.join(_COMMANDS)}")
  run, usage = _COMMANDS[command]
  if not usage.endswith("...]") and len(arguments) != len(usage.split()):
    raise UserError(f"give {usage} after {command}, not {len(arguments)} arguments")
  return run(*arguments)


def _list(*folders: str) -> None:
  from audiolm_jax.bundles import inspection, manifest

  found = {name: manifest.find_folder(name) for name in manifest.list_bundles()}
  for given in folders:
    path = Path(given)
    if not path.is_dir():
      raise BundleError(f"{path} is not a folder; give folders that contain bundles, or none")
    inside = (*path.glob(manifest.MANIFEST), *path.glob(f"*/{manifest.MANIFEST}"))
    found |= {str(p.parent): p.parent for p in sorted(inside)}
  width = max(map(len, found), default=0)
  for name, path in found.items():
    size = f"{inspection.folder_size(path) / 1e6:.1f} MB"
    print(f"{name:<{width}}  {size:>9}  {_summary(path)}")


def _summary(path: Path) -> str:
  from audiolm_jax.bundles.manifest import read_manifest

  try:
    manifest = read_manifest(path)
    # Manifests of formats 1 and 2 list only the names of stages.
    names = [entry if isinstance(entry, str) else entry["name"] for entry in manifest["stages"]]
    stages = ", ".join(names) or "none"
    return f"{manifest['sample_rate']} Hz, stages {stages}: {manifest['description']}"
  except (BundleError, KeyError) as error:
    return f"damaged: {error}"


def _info(name: str) -> None:
  from audiolm_jax.bundles import inspection
  from audiolm_jax.bundles.manifest import CARD, find_folder, read_card, read_manifest

  folder = find_folder(name)
  manifest = read_manifest(folder)
  metadata: Json = manifest.get("metadata") or {}
  print(f"{manifest.get('name')}: {manifest.get('description')}\n")
  lines: tuple[tuple[str, object], ...] = (
    ("folder", folder),
    ("format", manifest.get("format_version")),
    ("size", f"{inspection.folder_size(folder) / 1e6:.1f} MB"),
    ("sample rate", f"{manifest.get('sample_rate')} Hz"),
    ("token hash", manifest.get("token_hash")),
    ("licence", metadata.get("licence") or "not stated"),
  )
  for title, value in lines:
    print(f"{title:<12} {_text(value)}")
  print("\nparts")
  for part in inspection.list_parts(folder):
    size = "missing" if part.size is None else f"{part.size / 1e6:.2f} MB"
    count = "" if part.parameters is None else f"{part.parameters / 1e6:.2f} M parameters"
    shared = f"of {part.bundle}" if part.bundle else ""
    print(f"  {part.name:<16} {size:>10}  {count:>20}  {part.kind:<10}  {shared}".rstrip())
  print("\ntraining data")
  for line in _data_lines(metadata.get("data")):
    print(f"  {line}")
  card = folder / CARD
  if card.is_file():
    print(f"\n{_head(read_card(folder))}\n\nmore in {card}")


def _data_lines(data: object) -> list[str]:
  """Returns one line per data set.

  Args:
    data: the training data in the metadata of a bundle, in any form.
  """
  if not is_list(data) or not data:
    return [_text(data) if data else "not stated"]
  return [
    f"{_text(entry.get('hours', '?'))} h  {_text(entry.get('name'))}; "
    f"{_text(entry.get('licence', 'no licence stated'))}"
    if is_mapping(entry)
    else _text(entry)
    for entry in data
  ]


def _text(value: object) -> str:
  """Returns a value from a manifest as one line without control characters."""
  return "".join(c for c in " ".join(str(value).split()) if c.isprintable())


def _head(card: str) -> str:
  """Returns the title and the first paragraph of a model card."""
  lines = "\n\n".join(card.strip().split("\n\n")[:2]).splitlines()
  return "\n".join("".join(c for c in line if c.isprintable()) for line in lines)


def _verify(name: str) -> int:
  from audiolm_jax.bundles import inspection
  from audiolm_jax.bundles.manifest import find_folder, read_manifest
  from audiolm_jax.bundles.migration import FORMAT_VERSION

  folder = find_folder(name)
  wrong = inspection.find_damage(folder)
  for sentence in wrong:
    print(f"damaged: {sentence}")
  if wrong:
    return 1
  version = read_manifest(folder)["format_version"]
  older = f"; format {version}, read as {FORMAT_VERSION}" if version != FORMAT_VERSION else ""
  print(f"{folder}: intact, {len(inspection.list_parts(folder))} parts{older}")
  return 0


def _push(name: str, repository: str) -> None:
  from audiolm_jax.bundles import hub
  from audiolm_jax.bundles.manifest import find_folder

  print(f"pushed: {hub.push_bundle(find_folder(name), repository, overwrite=FLAGS.overwrite)}")


def _pull(repository: str, folder: str) -> None:
  from audiolm_jax.bundles import hub, inspection

  path = hub.pull_bundle(
    repository, Path(folder), revision=FLAGS.revision, overwrite=FLAGS.overwrite
  )
  print(f"{path}: {repository}, intact, {inspection.folder_size(path) / 1e6:.1f} MB")


_COMMANDS: dict[str, tuple[Callable[..., int | None], str]] = {
  "list": (_list, "[FOLDER...]"),
  "info": (_info, "BUNDLE"),
  "verify": (_verify, "BUNDLE"),
  "push": (_push, "BUNDLE USER/NAME"),
  "pull": (_pull, "USER/NAME FOLDER"),
}

if __name__ == "__main__":
  run_cli(main, FLAGS)
