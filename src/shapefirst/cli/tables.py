"""The tables that the commands print. Cells are plain text: a prompt may hold what rich would take for markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from shapefirst.cli import terminal
from shapefirst.errors import printable

if TYPE_CHECKING:
    from shapefirst.findings.finding import Summary
    from shapefirst.guidance.meeting import Meeting
    from shapefirst.images.comparison import Comparison
    from shapefirst.images.outputs import Written
    from shapefirst.models import ModelInfo
    from shapefirst.sweep.cost import KeepImages, Pace
    from shapefirst.sweep.grid import Shards

__all__ = ["comparisons", "costs", "meeting", "model_table", "models_table", "summaries", "vocabulary", "written"]


def written(rows: Sequence[Written]) -> None:
    """What each image cost, where it lies, and how far it is from the fully guided one where that is known."""
    from shapefirst.images.comparison import decibels

    compared = any(row.l1 is not None for row in rows)
    table = Table("prompt", "file")
    for name in ("denoiser\nevaluations", "seconds", *(("L1", "PSNR") if compared else ())):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [row.result.prompt, str(row.path), f"{row.result.evaluations:g}", f"{row.result.seconds:.2f}"]
        if compared:
            cells += ["", ""] if row.l1 is None or row.psnr is None else [f"{row.l1:.4f}", decibels(row.psnr)]
        _add(table, cells)
    terminal.results().print(table)


def comparisons(rows: Sequence[Comparison]) -> None:
    """One line a policy: cost and distances, averaged over the images."""
    from shapefirst.images.comparison import decibels, percent

    table = Table("policy")
    for name in ("evaluations an image", "saved", "seconds an image", "saved", "L1", "PSNR"):
        table.add_column(name, justify="right")
    for row in rows:
        seconds = f"{row.seconds:.2f}"
        if row.is_reference:
            _add(table, [row.title, f"{row.evaluations:g}", "", seconds, "", "", ""])
            continue
        saved = percent(row.evaluations_saved), percent(row.seconds_saved)
        distances = f"{row.mean_l1:.4f}", decibels(row.mean_psnr)
        _add(table, [row.title, f"{row.evaluations:g}", saved[0], seconds, saved[1], *distances])
    terminal.results().print(table)


def models_table(infos: Sequence[ModelInfo]) -> None:
    """Each model: its name, what it is, where it comes from and where on this disk it lies, or what it takes to get."""
    from shapefirst.models import locate

    table = Table("name", "what it is", "comes from", "on this disk")
    for info in infos:
        full, half = info.gigabytes
        size = f"about {full:g} GB" + (f" ({half:g} in float16)" if half < full else "")
        _add(table, [info.name, info.summary, info.source or "this package", str(locate(info.name) or f"no: {size}")])
    terminal.results().print(table)


def model_table(info: ModelInfo) -> None:
    """A model, and the files of it that are read, or would be downloaded as far as the hub tells."""
    from shapefirst.errors import ModelError
    from shapefirst.models import download_of, files_of_model, locate

    models_table([info])
    place = locate(info.name)
    if place is not None:
        _files_table("read", files_of_model(place))
        return
    for dtype in ("float32", "float16"):
        try:
            files = download_of(info.name, dtype)
        except ModelError as error:
            terminal.note(f"the hub cannot be asked for the files: {error}")
            return
        _files_table(f"downloaded for {dtype}", files)


def _files_table(what: str, files: Mapping[str, int]) -> None:
    from shapefirst.models.hub import gigabytes

    table = Table(what, "size")
    for name, size in files.items():
        _add(table, [name, gigabytes(size)])
    _add(table, [f"{len(files)} files", gigabytes(sum(files.values()))])
    terminal.results().print(table)


def vocabulary() -> None:
    """The words that pocket was trained on."""
    from shapefirst.world.vocabulary import COLOURS, HELD_OUT, NOUNS, RELATIONS, TEXTURES

    table = Table(show_header=False, box=None, padding=(0, 2, 1, 0))
    _add(table, ["nouns", ", ".join(NOUNS)])
    _add(table, ["attributes", f"{', '.join(COLOURS)};\n{', '.join(TEXTURES)}"])
    _add(table, ["relations", ", ".join(RELATIONS)])
    _add(table, ["prompts", "a {attribute} {noun}\na {attribute} {noun} {relation} a {attribute} {noun}"])
    held_out = ", ".join(" ".join(pair) for pair in sorted(HELD_OUT))
    _add(table, ["never seen together\nin training", held_out])
    terminal.results().print(table)


def meeting(found: Meeting) -> None:
    """How a pipeline is met, in words."""
    from shapefirst.guidance.meeting import WAYS, WHOLE

    known, whole = bool(found.branches), "whole evaluations are skipped, whether guidance is on, off or distilled"
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    _add(table, ["met", f"{'in ' * known}{found.way}: {WAYS[found.way]}"])
    _add(table, ["branches", f"{', '.join(found.branches)}, in this order" if known else f"not known: {whole}"])
    _add(table, ["policies", f"{'all' if known else 'those that keep no branch'}: {', '.join(found.policies)}"])
    if known:
        _add(table, ["unguided", f"off or distilled, guidance leaves whole evaluations to skip: {', '.join(WHOLE)}"])
    if found.has_guider:
        _add(table, ["guider", 'shapefirst.Guider("paper:25") in the place of its own takes all policies'])
    _add(table, ["skipped", ", ".join(found.denoisers)])
    if found.beside:
        _add(table, ["skipped with it", f"{', '.join(found.beside)}, counted apart (evaluations.control_rows)"])
    _add(table, ["not skipped", ", ".join(found.others) or "no other network"])
    where = "with a Guider and within guide()" if found.has_guider else "in the matrix of docs/pipelines.md"
    _add(table, ["tested", where if found.is_tested else "no: met as any other class"])
    terminal.results().print(table)


def costs(shards: Shards, paces: Mapping[tuple[str, str], Pace], *, disk_of: KeepImages, inception: bool) -> None:
    """A row for each setting, and the whole. ``paces`` are those of models and samplers, or none."""
    from shapefirst.drawing.notation import duration
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
            caption = Text(printable(summary.caption)) if summary.caption and n == 0 else None
            table = Table(title=caption, title_justify="left")
            for column in columns:
                table.add_column(Text(printable(summary.columns[column])), justify="right" if column else "left")
            for row in summary.rows:
                table.add_row(*(Text(printable(row[column])) for column in columns))
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


def _add(table: Table, cells: Sequence[str]) -> None:
    table.add_row(*(Text(printable(cell), overflow="fold") for cell in cells))
