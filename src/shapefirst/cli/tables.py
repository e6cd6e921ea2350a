"""The tables that the commands print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from shapefirst.cli import terminal
from shapefirst.cli.tabular import Entry, Value, print_facts, print_table

if TYPE_CHECKING:
    from shapefirst.findings.finding import Summary
    from shapefirst.guidance.meeting import Meeting
    from shapefirst.images.comparison import Comparison
    from shapefirst.images.outputs import Written
    from shapefirst.models import ModelInfo
    from shapefirst.sweep.cost import KeepImages, Pace
    from shapefirst.sweep.grid import Shards

__all__ = ["comparisons", "costs", "meeting", "model_table", "models_table", "summaries", "vocabulary", "written"]


def written(rows: Sequence[Written], policy: str) -> None:
    """What each image cost, where it lies, and how far it is from the fully guided one where that is known. Of several
    the images under the policy are those with a distance."""
    from shapefirst.images.comparison import decibels

    compared = any(row.l1 is not None for row in rows)
    columns = ("prompt", "file", "denoiser evaluations", "seconds", *(("L1", "PSNR") if compared else ()))
    cells: list[list[Value]] = []
    more = []
    for row in rows:
        evaluations, seconds = row.result.evaluations, row.result.seconds
        cost = Entry(evaluations, f"{evaluations:g}"), Entry(round(seconds, 3), f"{seconds:.2f}")
        near = Entry(row.l1, "" if row.l1 is None else f"{row.l1:.4f}")
        far = Entry(row.psnr, "" if row.psnr is None else decibels(row.psnr))
        cells.append([row.result.prompt, row.path, *cost, *((near, far) if compared else ())])
        followed = "full" if compared and row.l1 is None else policy
        more.append(
            {"seed": row.result.seed, "policy": followed, "saved": round(1 - evaluations / row.result.asked, 4)}
        )
    print_table(columns, cells, more=more)


def comparisons(rows: Sequence[Comparison]) -> None:
    """One line a policy: evaluations and distances, averaged over the images."""
    from shapefirst.images.comparison import decibels, percent

    cells: list[list[Value]] = []
    for row in rows:
        evaluations, full = Entry(row.evaluations, f"{row.evaluations:g}"), row.is_reference
        share, near, far = row.evaluations_saved, row.mean_l1, row.mean_psnr
        found = ((share, percent(share)), (near, f"{near:.4f}"), (far, decibels(far)))
        cells.append([row.title, evaluations, *(Entry(None, "") if full else Entry(*one) for one in found)])
    print_table(("policy", "evaluations an image", "saved", "L1", "PSNR"), cells)


def models_table(infos: Sequence[ModelInfo]) -> None:
    """Each model: its name, what it is, where it comes from and where on this disk it lies, or what it takes to get."""
    from shapefirst.models import locate

    rows: list[list[Value]] = []
    for info in infos:
        full, half = info.gigabytes
        size = f"about {full:g} GB" + (f" ({half:g} in float16)" if half < full else "")
        rows.append([info.name, info.summary, info.source or "this package", locate(info.name) or f"no: {size}"])
    print_table(("name", "what it is", "comes from", "on this disk"), rows)


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
    from shapefirst.drawing.notation import plural
    from shapefirst.models.hub import gigabytes

    total = sum(files.values())
    rows: list[list[Value]] = [[name, Entry(size, gigabytes(size))] for name, size in files.items()]
    print_table((what, "size"), [*rows, [plural(len(files), "file"), Entry(total, gigabytes(total))]])


def vocabulary() -> None:
    """The words that pocket was trained on."""
    from shapefirst.world.vocabulary import COLOURS, HELD_OUT, NOUNS, RELATIONS, TEXTURES

    held_out = ", ".join(" ".join(pair) for pair in sorted(HELD_OUT))
    print_facts(
        {
            "nouns": ", ".join(NOUNS),
            "attributes": f"{', '.join(COLOURS)};\n{', '.join(TEXTURES)}",
            "relations": ", ".join(RELATIONS),
            "prompts": "a {attribute} {noun}\na {attribute} {noun} {relation} a {attribute} {noun}",
            "never seen together in training": held_out,
        }
    )


def meeting(found: Meeting) -> None:
    """How a pipeline is met, in words."""
    from shapefirst.guidance.meeting import WAYS, WHOLE

    known, whole = bool(found.branches), "whole evaluations are skipped, whether guidance is on, off or distilled"
    told = {}
    told["met"] = f"{'in ' * known}{found.way}: {WAYS[found.way]}"
    told["branches"] = f"{', '.join(found.branches)}, in this order" if known else f"not known: {whole}"
    told["policies"] = f"{'all' if known else 'those that keep no branch'}: {', '.join(found.policies)}"
    if known:
        told["unguided"] = f"off or distilled, guidance leaves whole evaluations to skip: {', '.join(WHOLE)}"
    if found.has_guider:
        told["guider"] = 'shapefirst.Guider("paper:25") in the place of its own takes all policies'
    told["skipped"] = ", ".join(found.denoisers)
    if found.beside:
        told["skipped with it"] = f"{', '.join(found.beside)}, counted apart (evaluations.control_rows)"
    told["not skipped"] = ", ".join(found.others) or "no other network"
    where = "with a Guider and within guide()" if found.has_guider else "in the matrix of docs/pipelines.md"
    told["tested"] = where if found.is_tested else "no: met as any other class"
    print_facts(told)


def costs(shards: Shards, paces: Mapping[tuple[str, str], Pace], *, disk_of: KeepImages, inception: bool) -> None:
    """A row for each setting, and the whole. ``paces`` are those of models and samplers, or none."""
    from shapefirst.drawing.notation import duration
    from shapefirst.sweep.cost import cost_of, disk_bytes

    found = cost_of(shards)
    rows: list[list[Value]] = []
    for cost in found:
        pace = paces.get((cost.setting.model, cost.setting.sampler))
        counts = (len(shards.policies(cost.setting)), cost.images, cost.shared, cost.apart)
        share, seconds = cost.shared / cost.apart, cost.seconds(pace) if pace else None
        cells = [*(Entry(count, f"{count:,}") for count in counts), Entry(share, f"{share:.0%}")]
        time = [] if seconds is None else [Entry(seconds, duration(seconds))]
        rows.append([str(cost.setting), *cells, *time])
    names = ("setting", "policies", "images", "evaluations", "in separate runs", "share", *(("time",) if paces else ()))
    print_table(names, rows, splits=True)
    total = sum(cost.images for cost in found)
    megabytes = disk_bytes(shards, inception=inception, keep_images=disk_of) / 1e6
    room = f"{megabytes:,.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:,.1f} GB"
    count = f"{len(shards):,} shard{'s' * (len(shards) != 1)}"
    lines = [f"{len(shards.prompts):,} prompts, {count}, {total:,} images, about {room} on the disk"]
    if paces:
        whole = sum(cost.seconds(paces[cost.setting.model, cost.setting.sampler]) for cost in found)
        lines.append(f"Time on this machine, one worker: about {duration(whole)}")
    terminal.line("\n".join(lines))


def summaries(tables: Iterable[Summary]) -> None:
    """Tables as they stand in the report; one that is wider than the terminal in parts, each with the first column."""
    for summary in tables:
        print_table(summary.columns, summary.rows, title=summary.caption, right=True, splits=True)
