"""Shards on the disk, on a shared folder or in an object store ("s3://bucket/sweep"), whole or not there.

    OUT/manifest.json               the plan's digest and grid, what it was begun with
        prompts.txt                 its prompts, one a line
        shards/000017.parquet       one row for each image and policy; settings and seconds in the metadata
        images/000017/25-paper-10.png
        failed/000017.txt           why a shard was given up

A shard counts as done once its Parquet file has its name, which it gets last, by renaming: whatever was interrupted
before is done again and takes its own place. Behind a URL nothing is renamed: the object stores of ``WHOLE`` put an
object whole or not at all, and what could show half a file is refused.

One run at a time writes: its folder is locked, also from other machines that share it. An object store has no locks,
so that behind a URL only runs of one machine keep each other out; two machines would both do all shards, the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shapefirst import __version__
from shapefirst.checks import fitted, json_of
from shapefirst.errors import ShapefirstError, first_line, shortened
from shapefirst.files import LOCK, atomic, check_writable, content_of, is_part, locked
from shapefirst.models.machine import versions
from shapefirst.prompts import as_lines, parse_prompts
from shapefirst.signatures import Place, guarded
from shapefirst.sweep.grid import Shard, Shards, read_grid
from shapefirst.sweep.manifest import Manifest, differences
from shapefirst.sweep.rows import Made, check_rows, check_values, made, parquet_of

if TYPE_CHECKING:
    import pyarrow

__all__ = ["CannotWrite", "Store"]

#: Raised when shards of an older shapefirst do not go beside new ones: other columns, images or measures.
FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
PROMPTS: Final = "prompts.txt"
LOCAL: Final = ("file", "local")
WHOLE: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs", "memory")  # S3, Google Cloud Storage, Azure's blobs

_SHARD: Final = re.compile(r"\d{6,}\.parquet")
_DAMAGED: Final = (OSError, ValueError)


class CannotWrite(ShapefirstError):
    """The results' place does not take any more: it is full, read-only or gone."""


class Store:
    """Where a sweep's results are.

    Args:
        url: A folder, or an fsspec URL of ``WHOLE``.

    Raises:
        ShapefirstError: The URL is of another kind, or needs a package that is not installed.
    """

    @guarded
    def __init__(self, url: Place) -> None:
        from fsspec.core import split_protocol, url_to_fs
        from fsspec.registry import known_implementations

        self.url = url
        kind, _ = split_protocol(url)
        if "::" in url or kind not in (None, *LOCAL, *WHOLE):
            raise ShapefirstError(
                f"Cannot use {url!r} for results: others could meet half a file there. Name a folder, or a URL of an "
                f"object store that puts files whole: {', '.join(f'{one}://' for one in WHOLE[:-1])}."
            )
        try:
            self._fs, self._root = url_to_fs(url)
        except ImportError as error:
            package = known_implementations[kind]["class"].partition(".")[0]
            raise ShapefirstError(
                f"Cannot use {url!r} for results: {kind}:// is reached through {package}, which cannot be imported "
                f"({first_line(error)}): pip install {package}."
            ) from error
        except ValueError as error:
            raise ShapefirstError(f"Cannot use {url!r} for results: {first_line(error)}.") from error
        self._is_local = kind not in WHOLE

    def locked(self) -> AbstractContextManager[None]:
        """Keeps a second run out (see the module) until the block ends.

        Raises:
            ShapefirstError: Another run is at it, or the place cannot be written to.
        """
        if self._is_local:
            check_writable(Path(self._root))
            return locked(Path(self._root) / LOCK, self.url)
        whose = f"{getattr(os, 'getuid', int)()} {self._fs.unstrip_protocol(self._root)}"  # a user's, as his files are
        digest = hashlib.sha256(whose.encode()).hexdigest()[:16]
        return locked(Path(tempfile.gettempdir()) / f"shapefirst-{digest}{LOCK}", self.url)

    def begin(self, shards: Shards, about: Mapping[str, Any], command: str = "") -> None:
        """Writes the manifest, or makes sure that the one that is there is of the same sweep. Of another sweep, without
        a finished shard, nothing stays.

        Args:
            shards: The plan.
            about: What else must be the same: fingerprints of the weights, the scores.
            command: What repeats it.

        Raises:
            ShapefirstError: Another sweep's results are there, or it cannot be written.
        """
        mine = {
            "format": FORMAT,
            "plan": shards.digest,
            "shapefirst": __version__,
            "about": dict(about),
            "shards": len(shards),
            "images": shards.images,
            "grid": asdict(shards.grid),
        }
        mine = json.loads(json.dumps(mine))  # tuples as JSON has them
        what = None
        if self._exists(MANIFEST):
            what = differences(mine, self.manifest())
            if what and self.done():
                raise ShapefirstError(
                    f"{self.url!r} holds another sweep, which differs in {', '.join(what)}: choose another --out, or "
                    "delete it."
                )
            for folder in ("failed", "images") if what else ():
                self._remove(folder)
        elif not self._is_empty():
            raise ShapefirstError(f"{self.url!r} holds files that are no sweep: choose another --out.")
        self._tidy()
        if what != []:
            mine |= {"command": command, "versions": versions()}
            self._write(MANIFEST, (json.dumps(mine, indent=2, ensure_ascii=False) + "\n").encode())
        # The manifest comes first: it alone shows that the folder is ours to write to. So the prompts may be missing.
        prompts = as_lines(shards.prompts).encode()
        if self._read_if_there(PROMPTS) != prompts:
            self._write(PROMPTS, prompts)

    def withdraw(self) -> None:
        """Nothing of what `begin` wrote stays where no shard came of it."""
        if not self.done() and not self._names("failed"):
            for name in ("images", PROMPTS, MANIFEST):  # a folder without a manifest is nobody's
                self._remove(name)

    def manifest(self) -> dict[str, Any]:
        """What `begin` wrote.

        Raises:
            ShapefirstError: There is no sweep, or it cannot be read.
        """
        try:
            found = json_of(self._read(MANIFEST))
            its_format = found.get("format", FORMAT) if isinstance(found, dict) else FORMAT
            if its_format == FORMAT:
                fitted(Manifest, found, "")
        except FileNotFoundError:
            raise ShapefirstError(
                f"There is no sweep in {self.url!r}: run `shapefirst sweep run --out` first."
            ) from None
        except _DAMAGED as error:
            raise self._unreadable(MANIFEST, error) from error
        if its_format != FORMAT:
            raise ShapefirstError(
                f"The sweep in {self.url!r} has the format {shortened(repr(its_format))}, and shapefirst {__version__} "
                f"goes on with {FORMAT}: take version {shortened(str(found.get('shapefirst')))}, which began it, or "
                "choose another --out."
            )
        return dict(found)

    def plan(self) -> Shards:
        """The plan that is stored.

        Raises:
            ShapefirstError: As `manifest`, or its prompts are lost or others.
        """
        manifest = self.manifest()
        try:
            lines = self._read(PROMPTS).decode().splitlines()
            if len(lines) * manifest["grid"]["images_per_prompt"] != manifest["images"]:
                raise ValueError(f"it has {len(lines)} lines")
        except _DAMAGED as error:
            raise ShapefirstError(
                f"Cannot read {PROMPTS} of {self.url!r} ({_reason(error)}): run the sweep again, which mends it."
            ) from error
        shards = Shards(read_grid(None, manifest["grid"]), parse_prompts(lines))
        if len(shards) != manifest["shards"]:
            raise self._unreadable(MANIFEST, ValueError(f"its grid makes {len(shards)} shards"))
        return shards

    def done(self) -> set[str]:
        """The names of the shards that are finished."""
        return {name.removesuffix(".parquet") for name in self._names("shards") if _SHARD.fullmatch(name)}

    def strays(self) -> list[str]:
        """Files among the shards that no run has written: copies of shards, say."""
        return sorted(name for name in self._names("shards") if not (_SHARD.fullmatch(name) or is_part(name)))

    def failed(self) -> dict[str, str]:
        """Shards that were given up -> why."""
        names = [name for name in self._names("failed") if name.endswith(".txt")]
        return {name.removesuffix(".txt"): self.text(f"failed/{name}") or "" for name in names}

    def write(self, name: str, table: pyarrow.Table, images: Mapping[str, bytes]) -> None:
        """A finished shard: the images first, the table last.

        Raises:
            CannotWrite: It cannot be written.
        """
        for file, content in images.items():
            self._write(f"images/{name}/{file}", content)
        self._write(f"shards/{name}.parquet", parquet_of(table))
        self._remove(f"failed/{name}.txt")

    def give_up(self, name: str, why: str) -> None:
        """Says of a shard why there is none."""
        self._write(f"failed/{name}.txt", why.encode())

    def read(self, shard: Shard) -> tuple[pyarrow.Table, Made]:
        """A finished shard's table, and how it was made.

        Raises:
            ShapefirstError: It is damaged, or not the shard's.
        """
        import pyarrow
        import pyarrow.parquet

        rows = len(shard.policies) * len(shard.prompts)
        try:
            content = pyarrow.BufferReader(self._read(f"shards/{shard.name}.parquet"))
            with pyarrow.parquet.ParquetFile(content, page_checksum_verification=True) as file:
                if file.metadata.num_rows != rows:  # before they are made
                    raise ValueError(f"it has {file.metadata.num_rows:,} rows, and should have {rows:,}")
                table = file.read()
            table.validate(full=True)
            check_rows(table, shard)
            check_values(table)
            return table, made(table)
        except (*_DAMAGED, pyarrow.ArrowException) as error:
            what = f"Cannot read the shard {shard.name} of {self.url!r} ({_reason(error)})"
            raise ShapefirstError(f"{what}: run the sweep again, which makes it anew.") from error

    def picture(self, name: str, file: str) -> bytes | None:
        """An image that a finished shard has kept, or None where it has not."""
        return self._read_if_there(f"images/{name}/{file}")

    def text(self, name: str) -> str | None:
        """A file of text, or None where there is none."""
        content = self._read_if_there(name)
        return None if content is None else content.decode(errors="replace")

    def save(self, name: str, text: str) -> str:
        """A file of text; returns where it is."""
        self._write(name, text.encode())
        return self._path(name) if self._is_local else f"{self.url.rstrip('/')}/{name}"

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _exists(self, name: str) -> bool:
        with self._named():
            return bool(self._fs.exists(self._path(name)))

    def _is_empty(self) -> bool:
        with self._named():
            there = self._fs.ls(self._root, detail=False) if self._fs.exists(self._root) else []
            return all(path.endswith(f"/{LOCK}") or _is_begun(path) for path in there)

    def _names(self, folder: str) -> list[str]:
        with self._named():
            self._fs.invalidate_cache()
            if not self._fs.exists(self._path(folder)):
                return []
            return [path.rsplit("/", 1)[-1] for path in self._fs.ls(self._path(folder), detail=False)]

    def _read(self, name: str) -> bytes:
        path = self._path(name)
        return content_of(Path(path)) if self._is_local else bytes(self._fs.cat_file(path))

    def _read_if_there(self, name: str) -> bytes | None:
        if not self._exists(name):
            return None
        try:
            return self._read(name)
        except OSError as error:
            raise ShapefirstError(f"Cannot read {name} of {self.url!r}: {_reason(error)}.") from error

    def _unreadable(self, name: str, error: Exception) -> ShapefirstError:
        return ShapefirstError(
            f"Cannot read {name} of {self.url!r} ({_reason(error)}): choose another --out, or delete the folder."
        )

    def _write(self, name: str, content: bytes) -> None:
        """A whole file or none: object stores put a file in one go, elsewhere it is renamed."""
        path = self._path(name)
        with self._named():
            if not self._is_local:
                self._fs.pipe_file(path, content)
                return
            try:
                with atomic(Path(path)) as part:
                    part.write_bytes(content)
            except ShapefirstError as error:
                raise CannotWrite(str(error)) from error

    def _tidy(self) -> None:
        """Without what a killed run has left half-written."""
        with self._named():
            for folder in ("", "shards", "images", "failed"):
                place = self._path(folder).rstrip("/")
                depth, is_left = (None, is_part) if folder else (1, _is_begun)
                for path in self._fs.find(place, maxdepth=depth) if self._fs.exists(place) else ():
                    if is_left(path):
                        self._fs.rm_file(path)

    def _remove(self, name: str) -> None:
        with self._named():
            if self._fs.exists(self._path(name)):
                self._fs.rm(self._path(name), recursive=True)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotWrite(f"Cannot use {self.url!r} for results: {error.strerror or error}.") from error


def _reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return shortened((isinstance(error, OSError) and error.strerror) or first_line(error), 200)


def _is_begun(path: str) -> bool:
    """Whether a file is what a killed run left of a sweep that it was about to begin."""
    return is_part(path) and path.rsplit("/", 1)[-1].startswith((".manifest-", ".prompts-"))
