"""A table on stdout: ruled on a terminal, with tabs in a pipe, and as JSON where that is asked for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from shapefirst.cli import terminal
from shapefirst.errors import printable

__all__ = ["Entry", "Value", "print_facts", "print_table"]


@dataclass(frozen=True)
class Entry:
    """A number that people read in other words than programs do; None where there is none."""

    value: float | None
    text: str


#: Plain text, in which a prompt may hold what rich would take for markup, or a number, or a file.
Value: TypeAlias = str | int | Path | Entry


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Value]],
    *,
    title: str = "",
    right: bool = False,
    looks: Sequence[str] = (),
    splits: bool = False,
    more: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Prints the rows. On a terminal that is too narrow for it a column of files stands below, where no name is broken.

    Args:
        columns: Their names, no two alike.
        rows: As many cells each; those of numbers stand to the right.
        title: Above them.
        right: Whether all columns but the first stand to the right.
        looks: rich's style of each row, on a terminal.
        splits: Whether a table that is wider than the terminal comes in parts, each with the first column, or in
            narrower columns.
        more: What JSON says besides, of each row.
    """
    if terminal.as_json():
        names = [_key(name) for name in columns]
        names = names if len({*names}) == len(names) else list(columns)
        records = [dict(zip(names, map(_value, row), strict=True)) for row in rows]
        records = [{**record, **also} for record, also in zip(records, more or [{}] * len(records), strict=True)]
        terminal.out(json.dumps({"table": title or None, "rows": records}, ensure_ascii=False))
        return
    texts = [[printable(_text(cell)) for cell in row] for row in rows]
    console = terminal.stdout()
    if not console.is_terminal:
        lines = ["\t".join(" ".join(cell.split()) for cell in row) for row in (columns, *texts)]
        terminal.out("\n".join([printable(title), *lines] if title else lines))
        return
    sides = [
        "right" if n and (right or any(not isinstance(row[n], str | Path) for row in rows)) else "left"
        for n in range(len(columns))
    ]
    files = {n for n in range(len(columns)) if any(isinstance(row[n], Path) for row in rows)}
    below = files if not splits and len(_parts(columns, texts, console.width)) > 1 else set()
    shown = [n for n in range(len(columns)) if n not in below]
    for part, numbers in enumerate(_parts(columns, texts, console.width) if splits else [shown]):
        caption = Text(printable(title)) if title and part == 0 else None
        table = Table(title=caption, title_justify="left")
        for n in numbers:
            table.add_column(Text(printable(columns[n])), justify=sides[n], overflow="fold")  # type: ignore[arg-type]
        for row, look in zip(texts, looks or [""] * len(texts), strict=True):
            table.add_row(*(Text(row[n]) for n in numbers), style=look)
        console.print(table)
    for n in below:
        heading = printable(columns[n])
        terminal.out("\n".join([f"{heading}:", *(f"  {row[0]}: {row[n]}" for row in texts)]))


def print_facts(facts: Mapping[str, str]) -> None:
    """Prints what is known by name."""
    if terminal.as_json():
        terminal.out(json.dumps({_key(name): value or None for name, value in facts.items()}, ensure_ascii=False))
        return
    console = terminal.stdout()
    if not console.is_terminal:
        terminal.out("\n".join(f"{name}\t{' '.join(value.split())}" for name, value in facts.items()))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        table.add_row(Text(printable(name)), Text(printable(value), overflow="fold"))
    console.print(table)


def _key(name: str) -> str:
    """A name as programs have it: in small letters, with an underscore between words."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


def _value(cell: Value) -> Any:
    value = cell.value if isinstance(cell, Entry) else str(cell) if isinstance(cell, Path) else cell
    if isinstance(value, float) and not math.isfinite(value):
        return None
    whole = isinstance(cell, Entry) and isinstance(value, float) and value.is_integer() and cell.text.isdecimal()
    return int(value) if whole else None if value == "" else value  # type: ignore[arg-type]


def _text(cell: Value) -> str:
    return cell.text if isinstance(cell, Entry) else str(cell)


def _parts(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """The columns of each part: as many as fit, the first in all of them."""
    first, *others = (max(map(cell_len, cells)) + len("│  ") for cells in zip(columns, *rows, strict=True))
    parts, room = [[0]], width - first - 1
    for column, wide in enumerate(others, start=1):
        if wide > room and len(parts[-1]) > 1:
            parts.append([0])
            room = width - first - 1
        parts[-1].append(column)
        room -= wide
    return parts
