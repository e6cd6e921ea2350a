"""What ``shapefirst sweep`` prints: costs of a plan, and the tables of its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from shapefirst import terminal

if TYPE_CHECKING:
    from shapefirst.studies.finding import Summary
    from shapefirst.sweep.cost import Pace
    from shapefirst.sweep.grid import Shards

__all__ = ["costs", "summaries"]


def costs(shards: Shards, paces: Mapping[tuple[str, str], Pace], *, disk_of: str, inception: bool) -> None:
    """A row for each setting, and the whole. ``paces`` are those of models and samplers, or none."""
    from shapefirst.report.figures import duration
    from shapefirst.sweep.cost import cost_of, disk_bytes

    found = cost_of(shards)
    table = Table("setting")
    names = ("policies", "images", "evaluations", "in separate runs", "share")
    for name in (*names, *(("time",) if paces else ())):
        table.add_column(name, justify="right")
    for cost in found:
        pace = paces.get((cost.setting.model, cost.setting.sampler))
        time = [duration(cost.seconds(pace))] if pace else []
        policies = len(shards.policies(cost.setting))
        share = f"{cost.shared / cost.apart:.0%}"
        table.add_row(
            str(cost.setting), str(policies), f"{cost.images:,}", f"{cost.shared:,}", f"{cost.apart:,}", share, *time
        )
    terminal.results().print(table)
    if "heun" in shards.grid.samplers:
        terminal.note("Heun calls the denoiser twice in a step; the counts here take it for one call.")
    total = sum(cost.images for cost in found)
    megabytes = disk_bytes(shards, inception=inception, keep_images=disk_of) / 1e6
    room = f"{megabytes:,.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:,.1f} GB"
    lines = [f"{len(shards.prompts):,} prompts, {len(shards):,} shards, {total:,} images, about {room} on the disk"]
    if paces:
        whole = sum(cost.seconds(paces[cost.setting.model, cost.setting.sampler]) for cost in found)
        lines.append(f"Time on this machine, one worker: about {duration(whole)}")
    terminal.line("\n".join(lines))


def summaries(tables: Iterable[Summary]) -> None:
    """Tables as they stand in the report."""
    for summary in tables:
        table = Table(*summary.columns[:1], title=summary.caption, title_justify="left")
        for column in summary.columns[1:]:
            table.add_column(column, justify="right")
        for row in summary.rows:
            table.add_row(*row)
        terminal.results().print(table)
