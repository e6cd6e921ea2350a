"""Which weights a result is of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["fingerprint"]

END: Final = 2**20  # bytes


def fingerprint(place: Path | None, also: Mapping[str, str | None], added: Sequence[Path] = ()) -> str:
    """Twelve hex digits that tell the weights in a model's folder or file, and in what was ``added`` to it, from
    others; "+" and what else tells results apart, where it was named: the models that score, the number format.

    A sha256 over names, sizes and the first and last MiB of the safetensors files: weights that were trained differ
    everywhere, and reading all of several GB would take longer than a quick study.
    """
    seen = hashlib.sha256()
    files: list[tuple[Path, Path]] = []
    for whole in (one for one in (place, *added) if one is not None):
        inside = sorted(file for file in whole.rglob("*.safetensors") if file.is_file()) if whole.is_dir() else [whole]
        files += [(file.relative_to(whole) if whole.is_dir() else Path(file.name), file) for file in inside]
    for name, file in files:
        size = file.stat().st_size
        seen.update(f"{name.as_posix()}\0{size}\0".encode())
        with file.open("rb") as content:
            seen.update(content.read(END))
            content.seek(max(0, size - END), os.SEEK_SET)
            seen.update(content.read(END))
    named = ", ".join(f"{kind} {scorer}" for kind, scorer in also.items() if scorer)
    return seen.hexdigest()[:12] + (f"+{named}" if named else "")
