"""``shapefirst study`` and ``shapefirst report``. Words and wiring only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from shapefirst import __version__
from shapefirst.checks import check_seed
from shapefirst.cli import terminal
from shapefirst.cli.loading import load_quietly, obtained
from shapefirst.cli.options import Device, Dtype, GuidanceScale, Model, Sampler, Scores, command_line, named_models
from shapefirst.errors import ShapefirstError

if TYPE_CHECKING:
    from shapefirst.findings.storage import Stored
    from shapefirst.prompts import Prompt
    from shapefirst.studies.runner import Plan, Task
    from shapefirst.studies.selection import Source

__all__ = ["report", "study"]

OUT: Final = Path("out/studies")
NOT_REPEATED: Final = ("names", "force", "list_them")
MODULES: Final = ("matplotlib", "pyarrow", "scipy", "skimage")
STEPS: Final = 50
QUICK_STEPS: Final = 16
FEWEST_STEPS: Final = 10  # the studies look at tenths of a run
MOST_IMAGES: Final = 10**6  # image i of a study has the seed of its first plus i
POCKET_BATCH: Final = 32
BATCH: Final = 4  # 512 x 512 images of other models, on a GPU of 8 GB


def study(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Studies of `shapefirst study --list`, or all.")
    ] = None,
    model: Model = "pocket",
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Prompts, one a line; pairs are made of them.", show_default="pocket's words"
        ),
    ] = None,
    pairs_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pairs of prompts, two a line with a tab between.")
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(metavar="N", help="Prompts or pairs of every study.", show_default="each study's own number"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of prompts and of the first image.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Denoising steps.", show_default=f"{STEPS}, or {QUICK_STEPS} with --quick"),
    ] = None,
    sampler: Sampler = None,
    guidance_scale: GuidanceScale = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results and report.html go.")] = OUT,
    quick: Annotated[bool, typer.Option("--quick", help="A few prompts and steps: to see it work.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace results of another model, version, seed or number of prompts.")
    ] = False,
    clip: Annotated[
        str | None, typer.Option(metavar="ID", help="A CLIP model on the hub or the disk to score images by.")
    ] = None,
    vqa: Annotated[
        str | None, typer.Option(metavar="ID", help="A visual-question-answering model to score images by.")
    ] = None,
    vlm: Annotated[str | None, typer.Option(metavar="ID", help="A vision-language model to score images by.")] = None,
    score: Scores = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images at a time.", show_default="32 with pocket, else 4")
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Say what these studies (or all) ask, and stop.")] = False,
) -> None:
    """Put findings of the paper to the test on a model: results with intervals and verdicts, and one HTML page.

    What is finished is kept: the same command goes on where it was stopped.

    \b
    Examples:
      shapefirst study all --quick
      shapefirst study f4 f5 --prompts 128
      shapefirst study all --model sd15 --prompts-file prompts.txt --out out/sd15
    """
    from shapefirst.models import default_guidance_scale, is_pocket, locate, usual_sampler
    from shapefirst.studies import chosen

    wanted = chosen(names or (["all"] if list_them else []))
    if list_them:
        _list(wanted)
        return
    more = named_models(score)
    scale = default_guidance_scale(model) if guidance_scale is None else guidance_scale
    if steps is None:
        steps = QUICK_STEPS if quick else STEPS
    _check(prompts, seed, steps, scale, sampler, batch_size)
    from shapefirst.files import check_writable
    from shapefirst.studies.selection import source

    check_writable(out)
    given = source(prompts_file, pairs_file, seed)
    locate(model)  # or say at once that there is no such model
    if missing := [name for name in MODULES if find_spec(name) is None]:
        raise ShapefirstError(f"Studies need {' and '.join(missing)}: pip install 'shapefirst[studies]'.")
    with terminal.working("Getting torch and diffusers ready"):
        from shapefirst.cli.remarks import warn_of_cuts
        from shapefirst.findings.storage import StudySetting, load_stored
        from shapefirst.measure.judging import can_judge
        from shapefirst.measure.scores import alignments_for, check_scores
        from shapefirst.models.fingerprint import fingerprint
        from shapefirst.models.machine import hardware
        from shapefirst.prompts import Pair
        from shapefirst.report import write_report
        from shapefirst.studies import study_named as find
        from shapefirst.studies.runner import make_plan, make_tasks, run
        from shapefirst.studies.subject import Subject

        studies = [find(name) for name in wanted]
    check_scores(more)
    place = obtained(model, dtype, device)
    sampler = sampler or usual_sampler(place)
    scorers = {"clip": clip, "vqa": vqa, "vlm": vlm, **more}
    setting = StudySetting(
        model=model,
        fingerprint=fingerprint(place, {**scorers, "dtype": dtype}),
        version=__version__,
        seed=seed,
        steps=steps,
        guidance_scale=float(scale),
        sampler=sampler,
        quick=quick,
        count=0,
        prompts="",
        command="",
        machine=hardware(device),
        seconds=0.0,
    )
    tasks = make_tasks(
        studies, given, setting, prompts, lambda name: command_line(context, ("study", name), NOT_REPEATED)
    )
    plan = make_plan(tasks, out, force=force)
    unjudged = next((p for p in given.prompts if not can_judge(p)), None)
    _remark(tasks, plan, given, prompts, out, unjudged)
    for stored in plan.kept:
        terminal.remark(f"{_outcome(stored)} (kept from an earlier run)")
    if plan.tasks:
        pipe = load_quietly(model, sampler, device, dtype)
        used = [item for task in plan.tasks for item in task.items]
        warn_of_cuts(
            pipe, {p.text for item in used for p in ((item.source, item.target) if isinstance(item, Pair) else (item,))}
        )
        with terminal.working("Loading what scores the images"):
            alignments = alignments_for(model, **scorers, device=device, judge=unjudged is None)
        subject = Subject(
            model,
            pipe,
            alignments,
            seed,
            steps,
            float(scale),
            sampler,
            batch_size or (POCKET_BATCH if is_pocket(model) else BATCH),
            clip=clip,
            scoring_device=device,
        )
        with terminal.progress(f"{len(plan.tasks)} studies", total=sum(task.cost for task in plan.tasks)) as progress:
            run(
                plan,
                out,
                subject,
                on_progress=progress,
                on_done=lambda stored: terminal.remark(f"{_outcome(stored)} ({stored.setting.seconds:.0f} s)"),
                write_report=write_report,
            )
    page = write_report(out)
    _results([found for name in wanted if (found := load_stored(out, name)) is not None])
    terminal.line(f"Report: {page}")


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where `shapefirst study` put its results.")] = OUT,
) -> None:
    """Write report.html anew from the stored results alone.

    \b
    Example:
      shapefirst report out/studies
    """
    from shapefirst.report import write_report

    terminal.line(f"Report: {write_report(folder)}")


def _check(
    prompts: int | None, seed: int, steps: int, scale: float, sampler: str | None, batch_size: int | None
) -> None:
    from shapefirst.models import sampler_info

    if prompts is not None and prompts < 2:
        raise ShapefirstError(
            f"--prompts must be at least 2, not {prompts}: an interval over prompts needs more than one."
        )
    check_seed(seed, MOST_IMAGES)
    if steps < FEWEST_STEPS:
        raise ShapefirstError(
            f"--steps must be at least {FEWEST_STEPS}, not {steps}: the studies look at tenths of a run, which fewer "
            "steps have not got."
        )
    if not 1 < scale < math.inf:
        raise ShapefirstError(
            f"--guidance-scale must be above 1, not {scale:g}: without guidance the text has one branch."
        )
    if sampler is not None:
        sampler_info(sampler)
    if batch_size is not None and batch_size < 1:
        raise ShapefirstError(f"--batch-size must be at least 1, not {batch_size}.")


def _remark(
    tasks: Sequence[Task], plan: Plan, given: Source, prompts: int | None, out: Path, unjudged: Prompt | None
) -> None:
    """What the user should know before the studies run."""
    from shapefirst.cli.remarks import warn_of_unjudged
    from shapefirst.models import is_pocket

    short = [task for task in tasks if len(task.items) < task.wanted]
    if short:
        most = max(short, key=lambda task: task.wanted)
        terminal.note(
            f"{given.name} gives {len(most.items)} {most.study.needs}, fewer than the {most.wanted} that "
            f"{'you asked for' if prompts else f'{most.study.name} takes by default'}: all are used."
        )
    if is_pocket(tasks[0].setting.model) and unjudged is not None:
        warn_of_unjudged(unjudged, given.prompts, given.name)
    if plan.strangers:
        terminal.note(
            f"the report in {str(out)!r} also shows {', '.join(plan.strangers)}, which are of another setting: run "
            "them again, or choose another --out."
        )


def _outcome(stored: Stored) -> str:
    verdict = ", ".join(claim.verdict for claim in stored.claims) or f"does not apply: {stored.reason}"
    return f"{stored.name}  {stored.title}: {verdict}"


def _list(names: Sequence[str]) -> None:
    with terminal.working("Getting torch ready"):
        from shapefirst.studies import study_named as find

        studies = [find(name) for name in names]
    table = Table("name", "title", "question")
    for one in studies:
        table.add_row(one.name, Text(one.title), Text(one.question))
    terminal.results().print(table)


def _results(found: Sequence[Stored]) -> None:
    """One row a claim."""
    table = Table("study", "claim", "paper", "ours (95% interval)")
    table.add_column("n", justify="right")
    table.add_column("verdict")
    for stored in found:
        rows = [[stored.title, stored.paper, stored.reason, "", "does not apply"]] if stored.reason else []
        for claim in stored.claims:
            interval = claim.found
            ours = f"{claim.quantity}: {interval.estimate:.3g} ({interval.low:.3g} to {interval.high:.3g})"
            rows.append([claim.statement, claim.paper, ours, str(interval.n), claim.verdict])
        for row in rows:
            table.add_row(*(Text(cell, overflow="fold") for cell in (stored.name, *row)))
    terminal.results().print(table)
