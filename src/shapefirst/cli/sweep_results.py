"""``shapefirst sweep latency`` and ``sweep report``: what a sweep has found. Words and wiring only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from shapefirst.checks import check_number
from shapefirst.cli import tables, terminal
from shapefirst.cli.options import Device, Dtype, command_line
from shapefirst.cli.options_sweep import OUT, Folder, store_at
from shapefirst.errors import ShapefirstError

if TYPE_CHECKING:
    from shapefirst.findings.finding import Finding
    from shapefirst.findings.storage import StudySetting
    from shapefirst.sweep.grid import Setting, Shards
    from shapefirst.sweep.latency import Latency
    from shapefirst.sweep.store import Store
    from shapefirst.sweep.summary import Reference, SweepSummary

__all__ = ["latency", "report_sweep"]

LATENCIES: Final = "latency.json"
TOLD: Final = 5  # of the files that are left out
FEW: Final = 1000  # images, for a Frechet distance


def latency(
    folder: Folder = OUT,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="POLICY", help="May be given again.", show_default="all of the sweep's"),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Images in a call; may be given again.", show_default="1, 2, 4, 8"),
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="N", help="Calls of each policy.")] = 5,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Measure what the sweep's policies save in seconds, for its report. Best on a machine that does nothing else."""
    from shapefirst.policies.words import parse_policy

    check_number(rounds, "rounds", "--rounds", why="a spread needs more than one")
    check_number(len(policy or ()), "entries", "The number of policies")
    for size in batch or ():
        check_number(size, "batch size", "--batch")
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.models.machine import find_device
        from shapefirst.sweep.latency import calls_table, latencies_text, parts_table, updated
        from shapefirst.sweep.stopwatch import BATCHES, calls, time_setting
    find_device(device)
    store = store_at(folder)
    shards = store.plan()
    with store.locked():
        known = _known_latencies(store)
        store.save(LATENCIES, latencies_text(known.values()))  # before anything is measured, to see that it can be
        prompts = [prompt.text for prompt in shards.prompts]
        batches = sorted(set(batch or BATCHES))
        found: list[Latency] = []
        for setting, pipe in _pipelines(shards.settings, device, dtype):
            schedules = {words: parse_policy(words) for words in policy} if policy else shards.policies(setting)
            total = sum(batches) * calls(len(schedules), rounds)
            with terminal.counting(f"Timing {setting}", total=total) as tick:
                found.append(time_setting(pipe, setting, prompts, schedules, batches, rounds, tick))
            known[setting] = updated(known.get(setting), found[-1])
            file = store.save(LATENCIES, latencies_text(known.values()))
            del pipe  # before the next one is loaded
    tables.summaries(table for one in found for table in (calls_table(one), parts_table(one)))
    terminal.line(f"Seconds: {file}\nNow: shapefirst sweep report {folder}")


def report_sweep(
    context: typer.Context,
    folder: Folder = OUT,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Images to measure a Frechet distance to: a folder, or an .npz of statistics."
        ),
    ] = None,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where report.html and table.md go; with the folder of `shapefirst study`, into its report.",
            show_default="DIR/report",
        ),
    ] = None,
) -> None:
    """Tables and plots of what a sweep has found so far: report.html, and table.md to paste.

    \b
    Examples:
      shapefirst sweep report out/sweep
      shapefirst sweep report out/sweep --reference coco-images --out out/studies
    """
    store = store_at(folder)
    manifest = store.manifest()
    if out is None and "://" in folder:
        raise ShapefirstError(f"{folder!r} is no folder here: say where the report goes, with --out.")
    out = out or Path(folder) / "report"
    with terminal.working("Getting numpy and matplotlib ready"):
        from shapefirst.files import check_writable
        from shapefirst.sweep.latency import read_latencies
        from shapefirst.sweep.pictures import pictures_of
        from shapefirst.sweep.report import finding_of, markdown, setting_of

        check_writable(out)
    against = None if reference is None else _reference(reference, manifest["about"].get("scores", {}), device)
    shards = store.plan()
    stored = _summary(store, shards, against)
    unfinished = manifest["shards"] - stored.shards
    latencies = read_latencies(store.text(LATENCIES) or "[]")
    pictures = pictures_of(store, shards, stored.conditions)
    finding = finding_of(stored.conditions, latencies, pictures, reference=against, unfinished=unfinished)
    setting = setting_of(manifest, stored, command_line(context, ("sweep", "report")))
    page, table = _keep(out, finding, setting, markdown(finding, unfinished))
    _say(finding, stored, unfinished)
    terminal.line(f"Report: {page}\nTable:  {table}")


def _keep(out: Path, finding: Finding, setting: StudySetting, text: str) -> tuple[Path, Path]:
    """Stores what was found; returns where the page and the tables to paste are."""
    from shapefirst.files import LOCK, cleared, locked, save_text
    from shapefirst.findings.storage import load_all, save
    from shapefirst.report import PAGE, write_report
    from shapefirst.sweep.report import QUESTION

    with locked(out / f".{QUESTION.name}{LOCK}", str(out)):
        # All of them are read, of which the page is made: a damaged one is met before anything is written.
        before = next((one for one in load_all(out) if one.name == QUESTION.name), None)
        save(out, QUESTION, finding, setting)
        if before is not None and before.setting.prompts != setting.prompts:
            terminal.note(f"the report in {str(out)!r} held another sweep, whose place this one takes.")
        cleared(out / PAGE)
        page, table = write_report(out), out / "table.md"
        save_text(text, cleared(table))
    return page, table


def _known_latencies(store: Store) -> dict[Setting, Latency]:
    from shapefirst.sweep.latency import read_latencies

    try:
        return {one.setting: one for one in read_latencies(store.text(LATENCIES) or "[]")}
    except ShapefirstError:
        terminal.warning(f"{LATENCIES} is damaged, and takes no part in what is measured now.")
        return {}


def _pipelines(settings: Sequence[Setting], device: str | None, dtype: str | None) -> Iterator[tuple[Setting, Any]]:
    """Each setting with its model, one after the other: two large ones may not fit."""
    from shapefirst.cli.loading import load_quietly
    from shapefirst.models import with_sampler

    name, pipe = "", None
    for setting in settings:
        if setting.model != name:
            pipe = None
            name, pipe = setting.model, load_quietly(setting.model, setting.sampler, device, dtype)
        yield setting, with_sampler(pipe, setting.sampler)


def _reference(place: Path, scores: dict[str, Any], device: str | None) -> Reference:
    from shapefirst.checks import fitted
    from shapefirst.models.machine import find_device
    from shapefirst.sweep.reference import reference_from
    from shapefirst.sweep.work import Scorers

    find_device(device)
    scorers = fitted(Scorers, scores, " of the scores in manifest.json")
    return reference_from(place, scorers, device, terminal.progress)


def _summary(store: Store, shards: Shards, against: Reference | None) -> SweepSummary:
    from shapefirst.sweep.summary import summarise

    names = store.done()
    begun = {shard.setting for shard in shards if shard.name in names}
    steps = len(names) + sum(len(shards.policies(setting)) for setting in begun)
    with terminal.counting("Reading shards and taking distances", total=steps) as tick:
        return summarise(store, against, lambda: tick(1))


def _say(finding: Finding, stored: SweepSummary, unfinished: int) -> None:
    from shapefirst.sweep.report import unfinished_note, verdicts

    tables.summaries(finding.summaries)
    for verdict in verdicts(finding):
        terminal.line(verdict)
    for sentence in stored.left_out[:TOLD]:
        terminal.warning(f"left out: {sentence}")
    if len(stored.left_out) > TOLD:
        terminal.warning(f"left out: {len(stored.left_out) - TOLD} more of its files.")
    if unfinished:
        terminal.note(unfinished_note(unfinished))
    if min(one.n for one in stored.conditions) < FEW:
        terminal.note(f"fewer than {FEW} images of a policy: Frechet distances say little beyond their order.")
