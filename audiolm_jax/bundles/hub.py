"""Bundles on the Hugging Face hub: a repository holds the files of one folder."""

import os
import shutil
from pathlib import Path

from audiolm_jax.bundles import inspection
from audiolm_jax.bundles.folder import CARD, MANIFEST, check_replaceable, replaced
from audiolm_jax.core.errors import BundleError, UserError
from audiolm_jax.io import hub

_FILES = (MANIFEST, CARD, "*.safetensors")


def push_bundle(folder: Path, repository: str, *, overwrite: bool = False) -> str:
  """Uploads a bundle; a repository that is not there is made, a private one.

  Args:
    folder: of the bundle, which must be whole.
    repository: USER/NAME on the hub.
    overwrite: whether a bundle that is there may be replaced.
  Returns:
    The address of what was uploaded.
  Raises:
    BundleError: the bundle is damaged, or one is there that may not be replaced.
    UserError: huggingface_hub is missing, or the hub cannot be reached or refuses.
  """
  _check_name(repository)
  library = hub.library(f"to push {folder} to", "copy the folder by other means")
  refuse_damaged(folder)
  api = library.HfApi()
  try:
    api.create_repo(repository, private=True, exist_ok=True)
    is_there = api.file_exists(repository, MANIFEST)
    if is_there and not overwrite:
      raise BundleError(
        f"{repository} holds a bundle already; choose another name, or --overwrite it"
      )
    done = api.upload_folder(
      repo_id=repository,
      folder_path=folder,
      allow_patterns=list(_FILES),
      delete_patterns=list(_FILES),  # parts that this bundle has not
      commit_message=f"Bundle {folder.name}",
    )
  except UserError:
    raise
  except Exception as error:  # HTTP clients and the hub have exceptions of their own
    raise UserError(
      f"cannot push to {repository} ({hub.reason(error)}); look whether the hub can be reached, "
      "whether `hf auth login` was done, and whether the name is yours"
    ) from error
  return str(getattr(done, "commit_url", done))


def pull_bundle(
  repository: str, folder: Path, *, revision: str | None = None, overwrite: bool = False
) -> Path:
  """Downloads a bundle; the folder is there whole and checked, or not at all.

  Args:
    repository: USER/NAME on the hub.
    folder: to write.
    revision: a branch, tag or commit; None for the newest.
    overwrite: whether a bundle that is there may be replaced.
  Raises:
    BundleError: what was fetched is no whole bundle, or the folder may not be replaced.
    UserError: huggingface_hub is missing, the hub cannot be reached, or the disk refuses.
  """
  _check_name(repository)
  check_replaceable(folder)
  if folder.exists() and not overwrite:
    raise BundleError(f"{folder} exists; choose another folder, or --overwrite it")
  library = hub.library(f"to pull {repository} from", "copy its files into a folder by other means")
  try:
    if not library.HfApi().file_exists(repository, MANIFEST, revision=revision):
      raise BundleError(
        f"{repository} holds no bundle: there is no such repository, it wants `hf auth login`, or "
        f"it has no {MANIFEST}"
      )
    fetched = library.snapshot_download(repository, revision=revision, allow_patterns=list(_FILES))
  except UserError:
    raise
  except Exception as error:  # HTTP clients and the hub have exceptions of their own
    raise UserError(
      f"cannot pull {repository} ({hub.reason(error)}); look whether the hub can be reached, "
      "whether the name is right, and whether it wants `hf auth login`"
    ) from error
  with replaced(folder) as temporary:
    for pattern in _FILES:
      for path in Path(fetched).glob(pattern):
        shutil.copyfile(path, temporary / path.name)
    refuse_damaged(temporary, repository)
  return folder


def refuse_damaged(folder: Path, name: str | os.PathLike[str] | None = None) -> None:
  """Raises `BundleError` with the first thing that is wrong with a bundle, called `name`."""
  wrong = inspection.find_damage(folder)
  if wrong:
    named = wrong[0].replace(str(folder), str(name or folder))
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    raise BundleError(f"{named}{more}")


def _check_name(repository: str) -> None:
  parts = repository.split("/")
  if len(parts) != 2 or not all(parts):
    raise UserError(f"{repository!r} names no repository of the hub; write USER/NAME")
