"""``shapefirst sweep``: grids of settings, planned, run, reported. Words and wiring only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import typer

from shapefirst.cli import options_sweep as grid_options
from shapefirst.cli import tables_sweep, terminal
from shapefirst.cli.options import Device, Dtype, command_line
from shapefirst.errors import ShapefirstError

if TYPE_CHECKING:
    from shapefirst.sweep.grid import Grid, Setting, Shards
    from shapefirst.sweep.latency import Latency
    from shapefirst.sweep.store import Store
    from shapefirst.sweep.work import Scorers

__all__ = ["app"]

OUT: Final = "out/sweep"
LATENCIES: Final = "latency.json"
SOME_FAILED: Final = 1
FEW: Final = 1000  # images, for a Frechet distance

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

Folder: TypeAlias = Annotated[str, typer.Argument(metavar="[DIR]", help="Where `sweep run` put its results.")]
OutOption: TypeAlias = Annotated[str, typer.Option("--out", metavar="DIR", help="A folder, or any fsspec URL.")]


@app.callback()
def sweep() -> None:
    """The acceleration table: models, samplers and numbers of text steps, what each saves and what it costs.

    \b
    Examples:
      shapefirst sweep plan --sampler ddim --sampler dpm-solver --text-steps 0:50:5
      shapefirst sweep run grid.toml --out out/sweep
      shapefirst sweep run --model sd15 --prompts captions.csv --count 30000 --ray auto --gpus 1 --out s3://bucket/sd15
      shapefirst sweep report out/sweep
    """


@app.command("plan")
def plan_sweep(
    context: typer.Context,
    grid: grid_options.File = None,
    model: grid_options.Models = None,
    sampler: grid_options.Samplers = None,
    steps: grid_options.Steps = None,
    text_steps: grid_options.TextSteps = None,
    keep: grid_options.Keep = None,
    policy: grid_options.Policies = None,
    guidance_scale: grid_options.Scales = None,
    prompts: grid_options.Prompts = None,
    count: grid_options.CountOption = None,
    images_per_prompt: grid_options.PerPrompt = None,
    seed: grid_options.SeedOption = None,
    shard_size: grid_options.ShardSize = None,
    batch_size: grid_options.BatchSize = None,
    clip: grid_options.ClipOption = None,
    vqa: grid_options.Vqa = None,
    vlm: grid_options.Vlm = None,
    inception: grid_options.InceptionOption = None,
    device: Device = None,
    dtype: Dtype = None,
    images: Annotated[Literal["none", "sample", "all"], typer.Option(help="Pictures to keep.")] = "none",
    probe: Annotated[bool, typer.Option(help="Measure the pace, for the time it will take.")] = True,
) -> None:
    """Say what a sweep will take, without running it: images, evaluations, disk, and time by a short probe."""
    from shapefirst.models import check_samplers, locate

    _check_sizes(batch_size)
    shards = _shards(grid, grid_options.entries(context.params))
    paces = {}
    for name in shards.grid.models:
        if (place := locate(name)) is not None:
            check_samplers(place, shards.grid.samplers)
    if probe:
        _check_modules()
        with terminal.working("Getting torch and diffusers ready"):
            from shapefirst.models.machine import find_device
            from shapefirst.sweep.probe import probe as measure
            from shapefirst.sweep.work import Worker
        find_device(device)
        worker = Worker(device, _scores(shards, clip, vqa, vlm, inception), "none", batch_size, dtype)
        paces = _paces(worker, shards, measure)
    tables_sweep.costs(shards, paces, disk_of=images, inception=inception is not None)


@app.command()
def run(
    context: typer.Context,
    grid: grid_options.File = None,
    model: grid_options.Models = None,
    sampler: grid_options.Samplers = None,
    steps: grid_options.Steps = None,
    text_steps: grid_options.TextSteps = None,
    keep: grid_options.Keep = None,
    policy: grid_options.Policies = None,
    guidance_scale: grid_options.Scales = None,
    prompts: grid_options.Prompts = None,
    count: grid_options.CountOption = None,
    images_per_prompt: grid_options.PerPrompt = None,
    seed: grid_options.SeedOption = None,
    shard_size: grid_options.ShardSize = None,
    batch_size: grid_options.BatchSize = None,
    clip: grid_options.ClipOption = None,
    vqa: grid_options.Vqa = None,
    vlm: grid_options.Vlm = None,
    inception: grid_options.InceptionOption = None,
    device: Device = None,
    dtype: Dtype = None,
    images: Annotated[
        Literal["none", "sample", "all"], typer.Option(help="Pictures to keep as PNG: of a shard none, 4 or all.")
    ] = "none",
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: its address, auto, or local to start one here."),
    ] = None,
    cores: Annotated[int, typer.Option(metavar="N", help="CPU cores of each Ray task.")] = 1,
    gpus: Annotated[float, typer.Option(metavar="N", help="GPUs of each Ray task.")] = 0,
    out: OutOption = OUT,
) -> None:
    """Run a grid. What is done is kept: after an interruption the same command goes on.

    \b
    Examples:
      shapefirst sweep run --count 100 --sampler ddim --sampler dpm-solver --text-steps 0:50:5
      shapefirst sweep run grid.toml --ray local --images sample
    """
    _check_sizes(batch_size, cores, gpus)
    if ray is None and (cores != 1 or gpus):
        raise ShapefirstError("--cores and --gpus are what a Ray task takes: add --ray auto, or leave them out.")
    _check_modules()
    shards = _shards(grid, grid_options.entries(context.params))
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.cli.loading import obtained, quiet_libraries
        from shapefirst.models import check_samplers
        from shapefirst.models.fingerprint import fingerprint
        from shapefirst.models.machine import find_device
        from shapefirst.sweep.run import Resources, missing, run_here, run_on_ray
        from shapefirst.sweep.work import Worker
    from dataclasses import asdict

    from shapefirst.drawing.numbers import plural

    quiet_libraries()
    if ray is None:
        find_device(device)
    store = _store(out)
    scores = _scores(shards, clip, vqa, vlm, inception)
    places = {name: obtained(name, dtype, device) for name in shards.grid.models}
    for place in places.values():
        check_samplers(place, shards.grid.samplers)
    weights = {name: fingerprint(place, {"dtype": dtype}) for name, place in places.items()}
    about = {"weights": weights, "scores": asdict(scores), "images": images}
    store.begin(shards, about, command_line(context, ("sweep", "run")))
    each = {setting: shards.evaluations(setting) for setting in shards.settings}
    expected = {shard.name: each[shard.setting] * len(shard.prompts) for shard in missing(shards, store)}
    if kept := len(shards) - len(expected):
        terminal.note(f"{'going on: ' if expected else ''}{kept} of {len(shards)} shards done already.")
    failed = {}
    with terminal.counting(plural(len(expected), "shard"), total=max(1, sum(expected.values()))) as tick:
        if ray is None:
            outcomes = run_here(shards, store, Worker(device, scores, images, batch_size, dtype), tick)
        else:
            options = {
                "device": device,
                "scores": scores,
                "keep_images": images,
                "batch_size": batch_size,
                "dtype": dtype,
            }
            outcomes = run_on_ray(shards, store, options, ray, Resources(cores, gpus))
        try:
            for outcome in outcomes:
                if outcome.failed:
                    failed[outcome.name] = outcome.failed
                    terminal.warning(f"shard {outcome.name} was given up: {outcome.failed}.")
                if ray is not None:
                    tick(expected[outcome.name])
        except KeyboardInterrupt:
            terminal.note("finished shards are kept: the same command goes on.")
            raise
    terminal.line(f"{len(shards) - len(failed)} of {len(shards)} shards in {out}")
    if failed:
        terminal.error(
            f"{plural(len(failed), 'shard')} failed three times each; why is in {out}/failed. The same command tries "
            "again."
        )
        raise typer.Exit(SOME_FAILED)
    terminal.line(f"Now: shapefirst sweep report {out}")


@app.command()
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
    import json
    from dataclasses import asdict
    from functools import partial

    from shapefirst.sweep.grid import Shards, schedule_of

    if rounds < 2:
        raise ShapefirstError(f"--rounds must be at least 2, not {rounds}: a spread needs more than one.")
    if wrong := [n for n in batch or () if n < 1]:
        raise ShapefirstError(f"--batch must be at least 1, not {wrong[0]}.")
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.cli.loading import load_quietly
        from shapefirst.models import with_sampler
        from shapefirst.models.machine import find_device, hardware
        from shapefirst.sweep.latency import Latency, calls_table, parts_table, updated
        from shapefirst.sweep.stopwatch import BATCHES, calls, parts_of, time_policies, whole_call
    find_device(device)
    store = _store(folder)
    shards = Shards(store.grid(), store.prompts())
    known = _known_latencies(store)

    def keep() -> str:
        return store.save(LATENCIES, json.dumps([asdict(one) for one in known.values()], indent=1))

    keep()  # before anything is measured, to see that it can be
    prompts = [prompt.text for prompt in shards.prompts]
    batches = sorted(set(batch or BATCHES))
    found: list[Latency] = []
    pipes: dict[str, Any] = {}  # one: two large ones may not fit
    for setting in shards.settings:
        schedules = {words: schedule_of(words) for words in policy} if policy else shards.policies(setting)
        if setting.model not in pipes:
            pipes.clear()
            pipes[setting.model] = load_quietly(setting.model, setting.sampler, device, dtype)
        pipe = with_sampler(pipes[setting.model], setting.sampler)
        total = sum(batches) * calls(len(schedules), rounds)
        with terminal.counting(f"Timing {setting}", total=total) as tick:
            timings = [
                timing
                for n in batches
                for timing in time_policies(
                    pipe,
                    whole_call(pipe, prompts, steps=setting.steps, guidance_scale=setting.guidance_scale, batch=n),
                    schedules,
                    steps=setting.steps,
                    batch=n,
                    rounds=rounds,
                    on_call=partial(tick, n),
                )
            ]
        parts = [parts_of(pipe, prompts, batch=n) for n in batches]
        found.append(Latency(setting, hardware(device), tuple(timings), tuple(parts)))
        known[setting] = updated(known.get(setting), found[-1])
        file = keep()
    tables_sweep.summaries(table for one in found for table in (calls_table(one), parts_table(one)))
    terminal.line(f"Seconds: {file}\nNow: shapefirst sweep report {folder}")


@app.command("report")
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
    store = _store(folder)
    manifest = store.manifest()
    if out is None and "://" in folder:
        raise ShapefirstError(f"{folder!r} is no folder here: say where the report goes, with --out.")
    out = out or Path(folder) / "report"
    with terminal.working("Getting numpy and matplotlib ready"):
        from shapefirst.files import check_writable, save_text
        from shapefirst.findings.storage import load_stored, save
        from shapefirst.report import write_report
        from shapefirst.sweep.grid import Shards
        from shapefirst.sweep.latency import read_latencies
        from shapefirst.sweep.pictures import pictures_of
        from shapefirst.sweep.report import STUDY, finding_of, markdown, setting_of, unfinished_note, verdicts
        from shapefirst.sweep.summary import summarise

        check_writable(out)
    against = None
    if reference is not None:
        from shapefirst.models.machine import find_device
        from shapefirst.sweep.reference import reference_from
        from shapefirst.sweep.work import Scorers

        find_device(device)
        against = reference_from(reference, Scorers(**manifest["about"]["scores"]), device, terminal.progress)
    shards = Shards(store.grid(), store.prompts())
    names = store.done()
    begun = {shard.setting for shard in shards if shard.name in names}
    steps = len(names) + sum(len(shards.policies(setting)) for setting in begun)
    with terminal.counting("Reading shards and taking distances", total=steps) as tick:
        stored = summarise(store, against, lambda: tick(1))
    unfinished = manifest["shards"] - stored.shards
    latencies = read_latencies(store.text(LATENCIES) or "[]")
    finding = finding_of(
        stored.conditions,
        latencies,
        pictures_of(store, shards, stored.conditions),
        reference=against,
        unfinished=unfinished,
    )
    before = load_stored(out, STUDY.name)
    save(out, STUDY, finding, setting_of(manifest, stored, command_line(context, ("sweep", "report"))))
    if before is not None and before.setting.prompts != manifest["plan"]:
        terminal.note(f"the report in {str(out)!r} held another sweep, whose place this one takes.")
    page = write_report(out)
    table = out / "table.md"
    save_text(markdown(finding, unfinished), table)
    tables_sweep.summaries(finding.summaries)
    for verdict in verdicts(finding):
        terminal.line(verdict)
    if unfinished:
        terminal.note(unfinished_note(unfinished))
    if min(one.n for one in stored.conditions) < FEW:
        terminal.note(f"fewer than {FEW} images of a policy: Frechet distances say little beyond their order.")
    terminal.line(f"Report: {page}\nTable:  {table}")


def _shards(file: Path | None, entries: Mapping[str, Any]) -> Shards:
    from shapefirst.sweep.grid import Shards, prompts_of, read_grid

    grid: Grid = read_grid(file, entries)
    return Shards(grid, prompts_of(grid))


def _scores(shards: Shards, clip: str | None, vqa: str | None, vlm: str | None, inception: str | None) -> Scorers:
    """What scores the images; says so where pocket's judge cannot, since it does not know the prompts' words."""
    from shapefirst.cli.remarks import warn_of_unjudged
    from shapefirst.measure.judging import can_judge
    from shapefirst.models import is_pocket
    from shapefirst.sweep.work import Scorers

    unjudged = next((prompt for prompt in shards.prompts if not can_judge(prompt)), None)
    if unjudged is not None and any(map(is_pocket, shards.grid.models)):
        warn_of_unjudged(unjudged, shards.prompts, shards.grid.prompts)
    return Scorers(clip, vqa, vlm, inception, judge=unjudged is None)


def _known_latencies(store: Store) -> dict[Setting, Latency]:
    from shapefirst.sweep.latency import read_latencies

    try:
        return {one.setting: one for one in read_latencies(store.text(LATENCIES) or "[]")}
    except ShapefirstError:
        terminal.warning(f"{LATENCIES} is damaged, and takes no part in what is measured now.")
        return {}


def _store(place: str) -> Store:
    """By an absolute path: Ray's workers have folders of their own."""
    from shapefirst.sweep.store import Store

    if not place:
        raise ShapefirstError("The results need a place: name a folder or a URL.")
    return Store(place if "://" in place else str(Path(place).absolute()))


def _check_sizes(batch_size: int | None, cores: int = 1, gpus: float = 0) -> None:
    if batch_size is not None and batch_size < 1:
        raise ShapefirstError(f"--batch-size must be at least 1, not {batch_size}.")
    if cores < 1:
        raise ShapefirstError(f"--cores must be at least 1, not {cores}.")
    if not 0 <= gpus < math.inf:
        raise ShapefirstError(f"--gpus must be 0 or more, not {gpus:g}.")


def _check_modules() -> None:
    if missing := [name for name in ("pyarrow", "scipy", "skimage") if find_spec(name) is None]:
        raise ShapefirstError(f"Sweeps need {' and '.join(missing)}: pip install 'shapefirst[studies]'.")


def _paces(worker: Any, shards: Shards, measure: Any) -> dict[Any, Any]:
    """Of each model and sampler: guidance and number of steps do not change it."""
    from shapefirst.cli.loading import quiet_libraries

    quiet_libraries()
    wanted = {(setting.model, setting.sampler): setting for setting in shards.settings}
    found = {}
    with terminal.progress("Measuring the pace", total=len(wanted)) as progress:
        for n, (key, setting) in enumerate(wanted.items(), start=1):
            found[key] = measure(worker, shards, setting)
            progress(n)
    return found
