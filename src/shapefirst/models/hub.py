"""Models of the Hugging Face hub: found in its cache without network, or downloaded into it, only the files needed.

The cache holds each revision of a repository as a folder, models--owner--name/snapshots/<commit>.
"""

from __future__ import annotations

import errno
import glob
import shutil
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from shapefirst.errors import ModelError, first_line
from shapefirst.models.quiet import quietly

__all__ = ["cached", "download", "gigabytes", "is_hub_id", "listing", "wanted_files"]

#: Hugging Face's converter: where a repository has pickled weights only it offers safetensors in a pull request.
_CONVERTER: Final = "SFconvertbot"
PATIENCE: Final = 8  # seconds, for the hub's first word
#: What the disk says where nothing can be written.
_DISK: Final = (errno.EACCES, errno.EEXIST, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS)


def is_hub_id(name: str) -> bool:
    """Whether this could be the id of a model on the hub: "owner/name"."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def cached(repository: str, is_complete: Callable[[Path], bool]) -> Path | None:
    """Where a model lies in the cache: the newest of main if that is complete, else any complete revision."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    try:
        main = [folder / "snapshots" / (folder / "refs" / "main").read_text(encoding="utf-8").strip()]
    except (OSError, ValueError):
        main = []
    snapshots = folder / "snapshots"
    others = sorted(snapshots.iterdir()) if snapshots.is_dir() else []
    return next((place for place in (*main, *others) if place.is_dir() and is_complete(place)), None)


def check_reachable() -> None:
    """Raise OSError unless something answers where the hub is, within `PATIENCE`; its own client tries for minutes."""
    from huggingface_hub import constants

    place = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or getproxies():
        return
    address = place.hostname or "", place.port or (443 if place.scheme == "https" else 80)
    faults: list[OSError] = [TimeoutError(errno.ETIMEDOUT, f"no answer within {PATIENCE} s")]

    def connect() -> None:
        try:
            socket.create_connection(address, PATIENCE).close()
            faults.clear()
        except OSError as error:
            faults[:] = [error]

    trial = threading.Thread(target=connect, daemon=True)  # as nothing stops the search for a name
    trial.start()
    trial.join(PATIENCE)
    if faults:
        raise faults[0]


def listing(repository: str, called: str, *, revision: str | None = None) -> dict[str, int]:
    """The files of a repository and their sizes in bytes, as the hub tells them.

    Args:
        repository: Its id.
        called: What the user calls it.
        revision: By default main.

    Raises:
        ModelError: The hub cannot be reached, or has no such model, or keeps it to those who have accepted its terms.
    """
    from huggingface_hub import HfApi

    with _said(repository, called):
        check_reachable()
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=PATIENCE)
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def wanted_files(
    repository: str, called: str, choose: Callable[[Collection[str]], Sequence[str] | None], *, first: str
) -> tuple[str | None, dict[str, int]]:
    """What is needed of a model, before any of it but one small file is downloaded.

    Args:
        repository: Its id.
        called: What the user calls it.
        choose: The names of all files -> of those needed; None where only a conversion to safetensors would help. It
            may read ``first``.
        first: A small file that is downloaded before, to refuse what cannot be used before it is large.

    Returns:
        The revision, None for main, and file -> its size in bytes.

    Raises:
        ModelError: As of :func:`listing`; or there are no safetensors.
    """
    from huggingface_hub import HfApi, hf_hub_download

    revision, sizes = None, listing(repository, called)
    with _said(repository, called), quietly():
        if first in sizes:
            hf_hub_download(repository, first)
        needed = choose(list(sizes))
        if needed is None:
            revision = _converted(HfApi(), repository, choose)
            sizes = listing(repository, called, revision=revision)
            needed = choose(list(sizes)) or ()
        return revision, {name: sizes[name] for name in needed}


def download(
    repository: str, called: str, choose: Callable[[Collection[str]], Sequence[str] | None], *, first: str
) -> Path:
    """Download what is needed of a model into the cache. Arguments as of :func:`wanted_files`.

    Returns:
        The folder of the revision in the cache.

    Raises:
        ModelError: As of :func:`wanted_files`; or there is too little room on the disk.
    """
    from huggingface_hub import constants, snapshot_download, try_to_load_from_cache

    revision, sizes = wanted_files(repository, called, choose, first=first)
    with _said(repository, called), quietly(bars=True):  # a download of gigabytes shows how far it is
        absent = [name for name in sizes if try_to_load_from_cache(repository, name, revision=revision) is None]
        total, free = sum(sizes[name] for name in absent), _free(Path(constants.HF_HUB_CACHE))
        if total > free:
            raise ModelError(
                f"{called} takes {gigabytes(total)} and there are {gigabytes(free)} free in {constants.HF_HUB_CACHE}: "
                "make room, or let the variable HF_HUB_CACHE name another folder."
            )
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=[glob.escape(name) for name in sizes])
        )


def gigabytes(size: int) -> str:
    """A number of bytes for people, in units of a thousand as the hub has them."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.{1 if size < 100 * unit else 0}f} {name}"
    return f"{size} bytes"


@contextmanager
def _said(repository: str, called: str) -> Iterator[None]:
    """The hub's errors, as one sentence that says what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    name = repository if called == repository else f"{called} ({repository})"
    try:
        yield
    except ModelError:
        raise
    except GatedRepoError as error:
        raise ModelError(
            f"{name} is kept to those who have accepted its terms: accept them at {constants.ENDPOINT}/{repository}, "
            "then say `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The Hugging Face hub has no model {name}, or it is private: check the name, or say `hf auth login`."
        ) from error
    except OSError as error:
        if error.errno in _DISK:
            raise ModelError(
                f"Cannot write to the cache {constants.HF_HUB_CACHE}: {error.strerror}; let the variable HF_HUB_CACHE "
                "name another folder."
            ) from error
        raise _unreachable(name, repository, error) from error
    except Exception as error:
        raise _unreachable(name, repository, error) from error


def _unreachable(name: str, repository: str, error: Exception) -> ModelError:
    from huggingface_hub import constants

    return ModelError(
        f"The weights of {name} are not in the cache {constants.HF_HUB_CACHE} and could not be downloaded from the "
        f"Hugging Face hub ({first_line(error)}): check the name and the network and say the same again, which goes on "
        f"where it was cut off; all of the repository comes with `hf download {repository}`."
    )


def _converted(api: Any, repository: str, choose: Callable[[Collection[str]], Sequence[str] | None]) -> str:
    """The converter's pull request on a repository whose main branch has no safetensors."""
    offers = api.get_repo_discussions(
        repository, author=_CONVERTER, discussion_type="pull_request", discussion_status="open"
    )
    for offer in offers:
        revision = f"refs/pr/{offer.num}"
        if offer.author == _CONVERTER and choose(api.list_repo_files(repository, revision=revision)) is not None:
            return revision
    raise ModelError(
        f"{repository} offers no safetensors weights, and pickled checkpoints are not read: they can run code when "
        "opened."
    )


def _free(cache: Path) -> int:
    """Bytes free where the cache is, or will be."""
    while not cache.exists() and cache != cache.parent:
        cache = cache.parent
    return shutil.disk_usage(cache).free
