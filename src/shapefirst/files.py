"""Files that are whole or not there: names made from prompts, settings inside the PNG, writing by renaming; locks."""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import stat
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from shapefirst.errors import ShapefirstError
from shapefirst.words import spans

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "LOCK",
    "Names",
    "atomic",
    "check_file",
    "check_writable",
    "cleared",
    "content_of",
    "is_part",
    "locked",
    "on_disk",
    "png_of",
    "reach_disk",
    "save_png",
    "save_text",
    "slug",
]

LOCK: Final = ".lock"  # in a folder of results while a run writes to it
LARGEST: Final = 2**30  # bytes of a file of results, which is read as a whole
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]+:/")  # a path has one slash left of the two
PATIENCE: Final = 0.5  # seconds, for a run that is just letting go


def on_disk(name: str) -> Path | None:
    """The file or folder that a user means by ``name``, or None if nothing is there."""
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # a name that is too long, of nobody's home, with a zero byte
        return None


def content_of(path: Path) -> bytes:
    """What an ordinary file holds.

    Raises:
        OSError: It cannot be read; it is a folder, or a pipe or a device, which may never end; or it is larger than
            `LARGEST`.
    """
    seen = path.stat()
    if not stat.S_ISREG(seen.st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    if seen.st_size > LARGEST:
        raise OSError(errno.EFBIG, f"it has {seen.st_size:,} bytes, and at most {LARGEST:,} are read", str(path))
    with path.open("rb") as file:
        return file.read(seen.st_size)  # some that the kernel makes have no size and no end


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, which takes its place when the block ends well and vanishes otherwise.

    Of a link it takes the place of what the link leads to.

    Raises:
        ShapefirstError: The place cannot be written to, or holds something else than a file.
    """
    part: Path | None = None
    _check_kind(path)
    try:
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.stem[:40]}-{token_hex(4)}.part")
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield part
        reach_disk(part)
        part.replace(path)
    except OSError as error:
        raise ShapefirstError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def cleared(path: Path) -> Path:
    """``path``, beside which nothing is left of processes that were killed while they wrote it with `atomic`. A lock
    has to keep others out."""
    place = Path(os.path.realpath(path))
    part = re.compile(rf"\.{re.escape(place.stem[:40])}-[0-9a-f]{{8}}\.part")
    for beside in place.parent.iterdir() if place.parent.is_dir() else ():
        if part.fullmatch(beside.name):
            beside.unlink(missing_ok=True)
    return path


def is_part(path: str) -> bool:
    """Whether a file is one that `atomic` writes to, so that it belongs to nobody when its writer has gone."""
    return re.search(r"(^|/)\.[^/]*-[0-9a-f]{8}\.part$", path) is not None


def reach_disk(file: Path) -> None:
    """Returns once the content of ``file`` is on the disk, which a name that it gets must not reach before."""
    with file.open("rb") as written:
        os.fsync(written.fileno())


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Keeps every other process out that asks for the lock ``file``, until the block ends; then nothing is left of it.

    The lock is the system's, so that of a process which died is free; what such a process left of the file does not
    hinder. Where the file system knows no locks, the file itself is one, which names its process and its host: a dead
    process of this host loses it.

    Args:
        file: Where the lock lies; folders above it are made, and taken away again where they stayed empty.
        what: What it locks, for the sentence.

    Raises:
        ShapefirstError: Another process has it, or the file cannot be written.
    """
    from filelock import FileLock, Timeout

    made = [folder for folder in file.parents if not folder.exists()]
    lock = FileLock(file, timeout=PATIENCE)
    try:
        while not lock.is_locked:
            file.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # who had it took the folder away, which was empty
                lock.acquire()
    except Timeout as error:
        raise ShapefirstError(f"{what!r} is in use by {_holder(file)}.") from error
    except OSError as error:
        raise ShapefirstError(f"Cannot lock {what!r}: {error.strerror or error}.") from error
    try:
        signature = f"{os.getpid()}\n{socket.gethostname()}"
        with suppress(OSError):  # a lock of Windows lets nobody write
            if not file.read_bytes().startswith(signature.encode()):  # where the file itself is the lock it is signed
                file.write_text(f"{signature}\n")
        yield
    finally:
        with suppress(OSError):
            file.unlink()  # while it is held: who waits for it looks whether it is still there
        lock.release()
        with suppress(OSError):  # not empty
            for folder in made:
                folder.rmdir()


def _holder(file: Path) -> str:
    """Who has a lock, and what to do."""
    remedy = "wait until it has ended, stop it, or choose another --out"
    try:
        process, host, *_ = file.read_text().splitlines()
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(file.stat().st_mtime))
    except (OSError, ValueError):  # of a process that has not signed yet, or on Windows
        return f"another process: {remedy}"
    if host != socket.gethostname():
        remedy += f"; if it has died there, delete {str(file)!r}"
    return f"process {process} on {host} since {since}: {remedy}"


def check_writable(folder: Path) -> None:
    """Makes sure, leaving nothing on the disk, that files can later be written to ``folder``, which need not exist yet.

    Raises:
        ShapefirstError: It is a file, or it or the nearest folder above it takes no file.
    """
    if _URL.match(str(folder)):
        raise ShapefirstError(f"Cannot write to {str(folder)!r}: a URL is a place for `shapefirst sweep run` alone.")
    place = folder.absolute()
    try:
        while not _is_there(place) and place != place.parent:
            place = place.parent
    except (OSError, ValueError) as error:  # a folder that may not be looked into, a name that is too long
        raise ShapefirstError(f"Cannot write to {str(folder)!r}: {getattr(error, 'strerror', error)}.") from error
    if not place.is_dir():
        raise ShapefirstError(f"Cannot write to {str(folder)!r}: {str(place)!r} is not a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ShapefirstError(f"Cannot write to {str(folder)!r}: no permission to write in {str(place)!r}.")
    try:
        with tempfile.TemporaryFile(dir=place):  # root may write to /proc and /sys, which take none
            pass
    except OSError as error:
        raise ShapefirstError(
            f"Cannot write to {str(folder)!r}: {str(place)!r} takes no file ({error.strerror or error})."
        ) from error


def check_file(path: Path) -> None:
    """Makes sure, leaving nothing on the disk, that the file ``path`` can later be written.

    Raises:
        ShapefirstError: It is a folder or a device, or its folder cannot be written to.
    """
    _check_kind(path)
    check_writable(path.parent)


def _check_kind(path: Path) -> None:
    """Raise ShapefirstError if a file cannot take the place of what is at ``path``: a device would be gone."""
    try:
        if path.is_dir():
            raise ShapefirstError(f"Cannot write {str(path)!r}: it is a folder, name a file in it.")
        if Path(os.path.realpath(path)).is_symlink() or (path.exists() and not path.is_file()):
            raise ShapefirstError(
                f"Cannot write {str(path)!r}: it is a device, a pipe or a link to itself, name a file."
            )
    except OSError as error:  # as in `check_writable`
        raise ShapefirstError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error


def _is_there(path: Path) -> bool:
    """Whether there is anything, be it a link to nothing."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def save_png(image: Image.Image, path: Path, settings: Mapping[str, object] | None = None) -> None:
    """Writes a PNG with ``settings`` as text chunks, one a key (``PIL.Image.open(path).text`` gives them back)."""
    with atomic(path) as part:
        part.write_bytes(png_of(image, settings or {}))


def png_of(image: Image.Image, settings: Mapping[str, object]) -> bytes:
    """What `save_png` writes."""
    from PIL.PngImagePlugin import PngInfo

    chunks, stream = PngInfo(), io.BytesIO()
    for key, value in settings.items():
        chunks.add_text(key, str(value))
    image.save(stream, format="PNG", pnginfo=chunks)
    return stream.getvalue()


def save_text(text: str, path: Path) -> None:
    """Writes ``text`` as UTF-8."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def slug(prompt: str, max_bytes: int = 80) -> str:
    """``prompt`` as part of a file name: letters and digits of any script, in lower case, joined by hyphens."""
    text = unicodedata.normalize("NFKC", prompt).lower()
    words = re.sub(r"['’\u2010]", "-", "-".join(text[start:end] for start, end in spans(text)))
    encoding = sys.getfilesystemencoding()  # an ASCII disk has no name for other scripts
    short = words.encode(encoding, "ignore")[:max_bytes].decode(encoding, "ignore").strip("-")
    return short or "prompt"


class Names:
    """File names of one run, no two alike, not even where upper and lower case are the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, stem: str, is_foreign: Callable[[str], bool] = lambda name: False) -> str:
        """``stem``, or ``stem-2``, ``stem-3``, ... where it is taken, by this run or by something foreign to it."""
        name, n = stem, 1
        while name.casefold() in self._taken or is_foreign(name):
            n += 1
            name = f"{stem}-{n}"
        self._taken.add(name.casefold())
        return name
