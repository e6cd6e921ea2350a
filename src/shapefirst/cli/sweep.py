"""``shapefirst sweep``: grids of settings, planned and run. Words and wiring only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from shapefirst.checks import check_number
from shapefirst.cli import sweep_results, tables, terminal
from shapefirst.cli.options import command_line, unpacked
from shapefirst.cli.options_sweep import OUT, GridOptions, WorkOptions, store_at
from shapefirst.errors import ShapefirstError, installing

if TYPE_CHECKING:
    from shapefirst.sweep.cluster import Cluster
    from shapefirst.sweep.grid import Shards
    from shapefirst.sweep.store import Store

__all__ = ["app"]

SOME_FAILED: Final = 1

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


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
@unpacked
def plan_sweep(
    grid: GridOptions,
    work: WorkOptions,
    images: Annotated[Literal["none", "sample", "all"], typer.Option(help="Pictures to keep.")] = "none",
    probe: Annotated[
        bool, typer.Option(help="Sample a few images to measure the pace, for the time it will take.")
    ] = False,
) -> None:
    """Say what a sweep will take, without running it: images, evaluations, disk; with --probe also the time."""
    from shapefirst.models import check_samplers, locate

    shards = grid.shards()
    for name in shards.grid.models:
        if (place := locate(name)) is not None:
            check_samplers(place, shards.grid.samplers)
    paces = _paces(shards, work) if probe else {}
    tables.costs(shards, paces, disk_of=images, inception=work.inception is not None)
    if not probe:
        terminal.note("nothing was sampled; --probe samples a few images and says how long the sweep will take here.")
    if any(words.startswith("tol:") for setting in shards.settings for words in shards.policies(setting)):
        terminal.note("a policy with a tolerance is counted as if it guided every step: it will take less.")


@app.command()
@unpacked
def run(
    context: typer.Context,
    grid: GridOptions,
    work: WorkOptions,
    images: Annotated[
        Literal["none", "sample", "all"], typer.Option(help="Pictures to keep as PNG: of a shard none, 4 or all.")
    ] = "none",
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: its address, auto, or local to start one here."),
    ] = None,
    cores: Annotated[int, typer.Option(metavar="N", help="CPU cores of each Ray task.")] = 1,
    gpus: Annotated[float, typer.Option(metavar="N", help="GPUs of each Ray task.")] = 0,
    out: Annotated[str, typer.Option(metavar="DIR", help="A folder, or a URL of s3, gs or az.")] = OUT,
) -> None:
    """Run a grid. What is done is kept: after an interruption the same command goes on.

    \b
    Examples:
      shapefirst sweep run --count 100 --sampler ddim --sampler dpm-solver --text-steps 0:50:5
      shapefirst sweep run grid.toml --ray local --images sample
    """
    from shapefirst.drawing.notation import plural

    _check_task(ray, cores, gpus)
    _check_modules()
    shards = grid.shards()
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.cli.loading import obtained, quiet_libraries
        from shapefirst.models import check_samplers
        from shapefirst.models.fingerprint import fingerprint
        from shapefirst.models.machine import find_device
        from shapefirst.sweep.cluster import Resources, connected
    quiet_libraries()
    if ray is None:
        find_device(work.device)
    command, store, scorers = command_line(context, ("sweep", "run")), store_at(out), work.scorers(shards)
    worker = {"scores": scorers, "keep_images": images, **work.of_worker}
    cluster = nullcontext() if ray is None else connected(ray, Resources(cores, gpus))
    with store.locked(), cluster as there:
        weights = {}
        for name in shards.grid.models:
            place = obtained(name, work.dtype, work.device)
            check_samplers(place, shards.grid.samplers)
            weights[name] = fingerprint(place, {"dtype": work.dtype})
        store.begin(shards, {"weights": weights, "scores": asdict(scorers), "images": images}, command)
        failed = _run(shards, store, worker, there)
    terminal.line(f"{len(shards) - failed} of {len(shards)} shards in {out}")
    if failed:
        terminal.error(f"{plural(failed, 'shard')} failed; why is in {out}/failed. The same command tries again.")
        raise typer.Exit(SOME_FAILED)
    terminal.line(f"Now: shapefirst sweep report {out}")


app.command("latency")(sweep_results.latency)
app.command("report")(sweep_results.report_sweep)


def _run(shards: Shards, store: Store, worker: Mapping[str, Any], cluster: Cluster | None) -> int:
    """Runs what is missing; returns how many shards were given up."""
    from shapefirst.cli.loading import warn_of_cuts
    from shapefirst.drawing.notation import plural
    from shapefirst.sweep.run import missing_evaluations, run_here, run_on_ray
    from shapefirst.sweep.work import Worker

    expected = missing_evaluations(shards, store)
    if kept := len(shards) - len(expected):
        terminal.note(f"{'going on: ' if expected else ''}{kept} of {len(shards)} shards done already.")
    todo = [shard for shard in shards if shard.name in expected]  # the others have just been read whole
    failed, texts = 0, {prompt.text for prompt in shards.prompts}
    with terminal.counting(plural(len(expected), "shard"), total=max(1, sum(expected.values()))) as tick:
        if cluster is None:
            outcomes = run_here(todo, store, Worker(**worker, on_load=lambda pipe: warn_of_cuts(pipe, texts)), tick)
        else:
            outcomes = run_on_ray(todo, store, worker, cluster)
        try:
            for outcome in outcomes:
                if outcome.failed:
                    failed += 1
                    terminal.warning(f"shard {outcome.name} was given up: {outcome.failed}.")
                tick(expected[outcome.name] - (outcome.evaluations if cluster is None else 0))
        except ShapefirstError:
            store.withdraw()
            raise
        except KeyboardInterrupt:
            terminal.note("finished shards are kept: the same command goes on.")
            raise
    return failed


def _check_task(ray: str | None, cores: int, gpus: float) -> None:
    check_number(cores, "cores", "--cores")
    check_number(gpus, "gpus", "--gpus")
    if ray is None and (cores != 1 or gpus):
        raise ShapefirstError("--cores and --gpus are what a Ray task takes: add --ray auto, or leave them out.")


def _check_modules() -> None:
    if missing := [name for name in ("pyarrow", "scipy", "skimage") if find_spec(name) is None]:
        raise ShapefirstError(f"Sweeps need {' and '.join(missing)}: {installing('studies')}.")


def _paces(shards: Shards, work: WorkOptions) -> dict[Any, Any]:
    """Of each model and sampler: guidance and number of steps do not change it."""
    _check_modules()
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.cli.loading import quiet_libraries
        from shapefirst.models.machine import find_device
        from shapefirst.sweep.probe import probe
        from shapefirst.sweep.work import Worker
    find_device(work.device)
    worker = Worker(scores=work.scorers(shards), **work.of_worker)
    quiet_libraries()
    wanted = {(setting.model, setting.sampler): setting for setting in shards.settings}
    found = {}
    with terminal.progress("Measuring the pace", total=len(wanted)) as progress:
        for n, (key, setting) in enumerate(wanted.items(), start=1):
            found[key] = probe(worker, shards, setting)
            progress(n)
    return found
