"""A table on stdout: ruled on a terminal, with tabs in a pipe, and as JSON where that is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


#: Plain text, in which a prompt may hold what rich would take for markup.
Value: TypeAlias = str | int | Entry


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Value]],
    *,
    title: str = "",
    right: bool = False,
    looks: Sequence[str] = (),
    splits: bool = False,
) -> None:
    """Prints the rows.

    Args:
        columns: Their names, no two alike.
        rows: As many cells each; those of numbers stand to the right.
        title: Above them.
        right: Whether all columns but the first stand to the right.
        looks: rich's style of each row, on a terminal.
        splits: Whether a table that is wider than the terminal comes in parts, each with the first column, or in
            narrower columns.
    """
    if terminal.as_json():
        records = [dict(zip(columns, map(_value, row), strict=True)) for row in rows]
        terminal.out(json.dumps({"table": title, "rows": records}, ensure_ascii=False))
        return
    texts = [[printable(_text(cell)) for cell in row] for row in rows]
    console = terminal.stdout()
    if not console.is_terminal:
        lines = ["\t".join(" ".join(cell.split()) for cell in row) for row in (columns, *texts)]
        terminal.out("\n".join([printable(title), *lines] if title else lines))
        return
    sides = [
        "right" if n and (right or any(not isinstance(row[n], str) for row in rows)) else "left"
        for n in range(len(columns))
    ]
    for part, numbers in enumerate(_parts(columns, texts, console.width) if splits else [range(len(columns))]):
        caption = Text(printable(title)) if title and part == 0 else None
        table = Table(title=caption, title_justify="left")
        for n in numbers:
            table.add_column(Text(printable(columns[n])), justify=sides[n], overflow="fold")  # type: ignore[arg-type]
        for row, look in zip(texts, looks or [""] * len(texts), strict=True):
            table.add_row(*(Text(row[n]) for n in numbers), style=look)
        console.print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Prints what is known by name."""
    if terminal.as_json():
        terminal.out(json.dumps(facts, ensure_ascii=False))
        return
    console = terminal.stdout()
    if not console.is_terminal:
        terminal.out("\n".join(f"{name}\t{' '.join(value.split())}" for name, value in facts.items()))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        table.add_row(Text(printable(name)), Text(printable(value), overflow="fold"))
    console.print(table)


def _value(cell: Value) -> Any:
    value = cell.value if isinstance(cell, Entry) else cell
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
