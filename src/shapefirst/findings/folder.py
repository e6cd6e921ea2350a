"""Folders that are whole or not there, as `files.atomic` has it for files.

f4/                  what is there
.f4-k3_x0a9q/new     what is being written
             old     what was there before, while the two change places
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shapefirst.errors import ShapefirstError
from shapefirst.files import reach_disk

__all__ = ["placed", "recover", "replacing"]


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yields a new folder, which takes the place of ``folder`` when the block ends well and vanishes otherwise.

    Raises:
        ShapefirstError: The place cannot be written to.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover(folder)
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        new, old = beside / "new", beside / "old"
        try:
            new.mkdir()
            yield new
            for file in new.iterdir():
                reach_disk(file)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise ShapefirstError(f"Cannot write {str(folder)!r}: {error.strerror or error}.") from error


def recover(folder: Path) -> None:
    """Ends what a killed process had begun with ``folder``, and takes away what it left. A lock has to keep others out.

    Raises:
        OSError: The place cannot be written to.
    """
    if (there := placed(folder)) != folder:
        there.rename(folder)
    for beside in _beside(folder):
        shutil.rmtree(beside)


def placed(folder: Path) -> Path:
    """Where the content of ``folder`` is: there, unless a process was killed, or is at work, between two names."""
    if not folder.exists():
        for beside in _beside(folder):
            # The new one is whole: the old one makes room for nothing less.
            if (beside / "old").exists():
                return beside / "new" if (beside / "new").exists() else beside / "old"
    return folder


def _beside(folder: Path) -> list[Path]:
    """What `replacing` has left."""
    name = re.compile(rf"\.{re.escape(folder.name)}-[a-z0-9_]{{8}}")
    near = folder.parent.iterdir() if folder.parent.is_dir() else ()
    found = [path for path in near if name.fullmatch(path.name) and path.is_dir()]
    return sorted(path for path in found if {inner.name for inner in path.iterdir()} <= {"new", "old"})
