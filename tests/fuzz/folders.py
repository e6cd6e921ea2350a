"""Folders of models that lie: a whole one with one entry of one of its JSON files changed to something hostile."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from layouts import JUNK, LAYOUTS

__all__ = ["HOSTILE", "LAID_OUT", "laid_out", "lying_folders", "places"]

#: Repositories of the hub.
LAID_OUT: Final = ("dreamshaper", "sd35")
GONE: Final = object()
#: What an entry is changed to.
HOSTILE: Final[tuple[Any, ...]] = (
    *(GONE, None, True, 0, -1, 7, 1.5, 1_000_000, 10**8, 10**30, float("nan"), float("inf"), 1e-30),
    *("", "odd", "8", "\x1b[31m", "x" * 10_000, [], {}, [[]], [0], [None, None], [8] * 1000, {"a": {"b": 1}}),
    [{"__class__": "os.system"}],
    {"auto_map": {"AutoModel": "evil.Model"}},
)


def laid_out(name: str, place: Path) -> Path:
    """A repository of the hub as a folder that holds what is read of it and nothing else."""
    LAYOUTS[name].write(place)
    for file in [file for file in place.rglob("*") if file.is_file()]:
        if file.read_bytes() == JUNK or ".fp16." in file.name:
            file.unlink()
    return place


def lying_folders(whole: Path, place: Path, *, count: int, seed: int = 0) -> Iterator[tuple[str, Path]]:
    """Changes of a folder, each in a copy that the next one replaces.

    Args:
        whole: A folder of a diffusers pipeline or of a transformers model.
        place: Where the copy lies; weights are linked to.
        count: How many.
        seed: Of the choice.

    Yields:
        What was changed, and the folder.
    """
    chooser = random.Random(seed)
    files = sorted(file.relative_to(whole) for file in whole.rglob("*.json"))
    entries = [(file, keys) for file in files for keys in places(json.loads((whole / file).read_text("utf-8")))]
    for _ in range(count):
        # A tokenizer's words are thousands of entries: each file has the same chance.
        file = chooser.choice(files)
        keys = chooser.choice([keys for one, keys in entries if one == file])
        value = chooser.choice(HOSTILE)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place, copy_function=os.link)
        content = _changed(json.loads((whole / file).read_text("utf-8")), keys, value)
        (place / file).unlink()
        (place / file).write_text(json.dumps(content), "utf-8")
        said = "gone" if value is GONE else repr(value)[:60]
        yield f"{file.as_posix()} {'.'.join(map(str, keys))} = {said}", place


def places(content: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The ways to all entries of a JSON file, the file itself first."""
    yield keys
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        yield from places(value, (*keys, key))


def _changed(content: Any, keys: tuple[str | int, ...], value: Any) -> Any:
    if not keys:
        return {} if value is GONE else value
    *way, last = keys
    inner = content
    for key in way:
        inner = inner[key]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return content
