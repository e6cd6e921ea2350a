"""What ``shapefirst sweep`` prints: costs of a plan, and the tables of its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table

from shapefirst.cli import terminal

if TYPE_CHECKING:
    from shapefirst.findings.finding import Summary
    from shapefirst.sweep.cost import Pace
    from shapefirst.sweep.grid import Shards

__all__ = ["costs", "summaries"]


def costs(shards: Shards, paces: Mapping[tuple[str, str], Pace], *, disk_of: str, inception: bool) -> None:
    """A row for each setting, and the whole. ``paces`` are those of models and samplers, or none."""
    from shapefirst.drawing.numbers import duration
    from shapefirst.findings.finding import Summary
    from shapefirst.sweep.cost import cost_of, disk_bytes

    found = cost_of(shards)
    rows = []
    for cost in found:
        pace = paces.get((cost.setting.model, cost.setting.sampler))
        counts = (len(shards.policies(cost.setting)), cost.images, cost.shared, cost.apart)
        cells = (*(f"{count:,}" for count in counts), f"{cost.shared / cost.apart:.0%}")
        rows.append((str(cost.setting), *cells, *([duration(cost.seconds(pace))] if pace else [])))
    names = ("setting", "policies", "images", "evaluations", "in separate runs", "share", *(("time",) if paces else ()))
    summaries([Summary(names, tuple(rows))])
    total = sum(cost.images for cost in found)
    megabytes = disk_bytes(shards, inception=inception, keep_images=disk_of) / 1e6
    room = f"{megabytes:,.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:,.1f} GB"
    lines = [f"{len(shards.prompts):,} prompts, {len(shards):,} shards, {total:,} images, about {room} on the disk"]
    if paces:
        whole = sum(cost.seconds(paces[cost.setting.model, cost.setting.sampler]) for cost in found)
        lines.append(f"Time on this machine, one worker: about {duration(whole)}")
    terminal.line("\n".join(lines))


def summaries(tables: Iterable[Summary]) -> None:
    """Tables as they stand in the report; one that is wider than the terminal in parts, each with the first column."""
    console = terminal.results()
    for summary in tables:
        for n, columns in enumerate(_parts(summary, console.width)):
            table = Table(title=summary.caption or None if n == 0 else None, title_justify="left")
            for column in columns:
                table.add_column(summary.columns[column], justify="right" if column else "left")
            for row in summary.rows:
                table.add_row(*(row[column] for column in columns))
            console.print(table)


def _parts(summary: Summary, width: int) -> list[list[int]]:
    """The columns of each part: as many as fit, the first in all of them."""
    first, *others = (
        max(cell_len(cell) for cell in cells) + len("│  ") for cells in zip(summary.columns, *summary.rows, strict=True)
    )
    parts, room = [[0]], width - first - 1
    for column, wide in enumerate(others, start=1):
        if wide > room and len(parts[-1]) > 1:
            parts.append([0])
            room = width - first - 1
        parts[-1].append(column)
        room -= wide
    return parts
