"""Uploads bundles to the Hugging Face hub and downloads them; a repository contains one bundle."""

import os
import shutil
from pathlib import Path

from audiolm_jax.bundles import inspection
from audiolm_jax.bundles.folder import check_replaceable, replaced
from audiolm_jax.bundles.manifest import CARD, MANIFEST
from audiolm_jax.core.errors import BundleError, UserError
from audiolm_jax.io import hub

_FILES = (MANIFEST, CARD, "*.safetensors")


def push_bundle(folder: Path, repository: str, *, overwrite: bool = False) -> str:
  """Uploads a bundle. If the repository does not exist, creates a private repository.

  If the repository contains a bundle, its files that the new bundle does not have are deleted;
  otherwise, no file is deleted.

  Args:
    folder: the folder of the bundle, which must be complete.
    repository: USER/NAME on the hub.
    overwrite: whether to replace a bundle in the repository.

  Returns:
    The URL of the commit.

  Raises:
    BundleError: the bundle is damaged, or the repository contains a bundle and `overwrite` is
      False.
    UserError: `repository` is not USER/NAME, huggingface_hub is not installed, or the hub is
      unreachable or rejects the upload.
  """
  _check_name(repository)
  library = hub.library(f"to push {folder} to", "copy the folder by other means")
  refuse_damaged(folder)
  api = library.HfApi()
  try:
    api.create_repo(repository, private=True, exist_ok=True)
    exists = api.file_exists(repository, MANIFEST)
    if exists and not overwrite:
      raise BundleError(
        f"{repository} already contains a bundle; choose another name, or --overwrite it"
      )
    done = api.upload_folder(
      repo_id=repository,
      folder_path=folder,
      allow_patterns=list(_FILES),
      # Parts that the new bundle does not have. Without a bundle, all files belong to the user.
      delete_patterns=list(_FILES) if exists else None,
      commit_message=f"Bundle {folder.name}",
    )
  except UserError:
    raise
  except Exception as error:  # HTTP clients and the hub raise many types of exceptions
    raise UserError(
      f"cannot push to {repository} ({hub.reason(error)}); check that the hub can be reached, "
      "that `hf auth login` was run, and that the repository belongs to you"
    ) from error
  return str(getattr(done, "commit_url", done))


def pull_bundle(
  repository: str, folder: Path, *, revision: str | None = None, overwrite: bool = False
) -> Path:
  """Downloads a bundle and checks it; after an error, the folder is unchanged.

  Args:
    repository: USER/NAME on the hub.
    folder: the folder to write.
    revision: a branch, tag or commit; None for the newest commit.
    overwrite: whether to replace an existing bundle.

  Returns:
    The folder.

  Raises:
    BundleError: the repository contains no intact bundle, the folder exists and `overwrite` is
      False, or the folder is not a bundle or cannot be written.
    UserError: `repository` is not USER/NAME, huggingface_hub is not installed, or the hub cannot be
      reached.
  """
  _check_name(repository)
  check_replaceable(folder)
  if folder.exists() and not overwrite:
    raise BundleError(f"{folder} exists; choose another folder, or --overwrite it")
  library = hub.library(f"to pull {repository} from", "copy its files into a folder by other means")
  try:
    if not library.HfApi().file_exists(repository, MANIFEST, revision=revision):
      raise BundleError(
        f"{repository} contains no bundle: the repository does not exist, requires "
        f"`hf auth login`, or has no {MANIFEST}"
      )
    fetched = library.snapshot_download(repository, revision=revision, allow_patterns=list(_FILES))
  except UserError:
    raise
  except Exception as error:  # HTTP clients and the hub raise many types of exceptions
    raise UserError(
      f"cannot pull {repository} ({hub.reason(error)}); check that the hub can be reached, that "
      "the name is right, and whether the repository needs `hf auth login`"
    ) from error
  with replaced(folder) as temporary:
    for pattern in _FILES:
      for path in Path(fetched).glob(pattern):
        shutil.copyfile(path, temporary / path.name)
    refuse_damaged(temporary, repository)
  return folder


def refuse_damaged(folder: Path, name: str | os.PathLike[str] | None = None) -> None:
  """Raises `BundleError` if a bundle is damaged; the message contains the first error.

  Args:
    folder: the folder of the bundle.
    name: name of the bundle in the message; the folder by default.
  """
  wrong = inspection.find_damage(folder)
  if wrong:
    named = wrong[0].replace(str(folder), str(name or folder))
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    raise BundleError(f"{named}{more}")


def _check_name(repository: str) -> None:
  parts = repository.split("/")
  if len(parts) != 2 or not all(parts):
    raise UserError(f"{repository!r} is not the name of a repository; write USER/NAME")
