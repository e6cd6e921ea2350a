"""``shapefirst study`` and ``shapefirst report``. Words and wiring only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shapefirst.cli import terminal
from shapefirst.cli.loading import load_quietly, warn_of_cuts, warn_of_unjudged
from shapefirst.cli.options import command_line, named_models, unpacked
from shapefirst.cli.options_study import STUDIES_OUT, StudyOptions
from shapefirst.cli.tabular import Entry, Value, print_table
from shapefirst.errors import ShapefirstError, installing

if TYPE_CHECKING:
    from shapefirst.findings.finding import Study
    from shapefirst.findings.storage import Stored
    from shapefirst.prompts import Prompt
    from shapefirst.studies.runner import Plan, Task
    from shapefirst.studies.selection import Source

__all__ = ["report", "study"]

NOT_REPEATED: Final = ("names", "force", "list_them")
MODULES: Final = ("matplotlib", "pyarrow", "scipy", "skimage")
POCKET_BATCH: Final = 32
BATCH: Final = 4  # 512 x 512 images of other models, on a GPU of 8 GB


@unpacked
def study(
    context: typer.Context,
    asked: StudyOptions,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Studies of `shapefirst study --list`, or all.")
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Say what these studies (or all) ask, and stop.")] = False,
) -> None:
    """Put findings of the paper to the test on a model: results with intervals and verdicts, and one HTML page.

    What is finished is kept: the same command goes on where it was stopped.

    \b
    Examples:
      shapefirst study all --quick
      shapefirst study f4 f5 --count 128
      shapefirst study all --model sd15 --prompts prompts.txt --out out/sd15
      shapefirst study all --model pocket --model runs/mine/weights --out out/both
      shapefirst study --study mine.py --count 64
      shapefirst study c1 --control runs/equal-snr/weights
      shapefirst study a6 --model instruct-pix2pix/ --image portrait.png --image street.png --out out/a6
    """
    from shapefirst.files import LOCK, locked
    from shapefirst.models import locate
    from shapefirst.studies import STUDIES, chosen
    from shapefirst.studies.own import advertised
    from shapefirst.studies.selection import source

    if list_them:
        _list([*chosen(names)] if names else [*STUDIES, *advertised()])
        return
    wanted = chosen(names or []) if names or not asked.study else []
    of_models = asked.each()
    given = source(asked.given[0], asked.pairs_file, asked.seed, asked.image or ())
    for one in of_models:
        one.check()
        locate(one.model)  # or say at once that there is no such model
    if missing := [name for name in MODULES if find_spec(name) is None]:
        raise ShapefirstError(f"Studies need {' and '.join(missing)}: {installing('studies')}.")
    with locked(asked.out / LOCK, str(asked.out)):
        with terminal.working("Getting torch and diffusers ready"):
            ready = [one.those_with_scores(one.studies(wanted)) for one in of_models]
        for one, studies in ready:
            if len(of_models) > 1:
                terminal.remark(f"{one.model}:")
            page = _study(context, one, studies, given)
        if len(of_models) > 1:
            page = _side_by_side(asked.out)
    terminal.line(f"Report: {page}")


def _study(context: typer.Context, asked: StudyOptions, studies: Sequence[Study], given: Source) -> Path:
    """The studies of one model, its claims in the terminal, and its page."""
    from shapefirst.files import cleared
    from shapefirst.findings.storage import load_stored
    from shapefirst.measure.judging import can_judge
    from shapefirst.measure.scores import check_scores
    from shapefirst.report import PAGE, write_report
    from shapefirst.studies.runner import make_plan, make_tasks

    _check_pictured(asked, studies)
    check_scores(named_models(asked.score))
    repeated = partial(command_line, context, without=NOT_REPEATED, models=asked.models, out=asked.out)
    tasks = make_tasks(studies, given, asked.setting(), asked.given[1], lambda name: repeated(("study", name)))
    plan = make_plan(tasks, asked.out, force=asked.force)
    unjudged = next((p for p in given.prompts if not can_judge(p)), None)
    _remark(tasks, plan, given, asked, unjudged)
    if plan.tasks:
        _run(plan, asked, given, judge=unjudged is None)
    cleared(asked.out / PAGE)
    page = write_report(asked.out)
    _results([found for one in studies if (found := load_stored(asked.out, one.name)) is not None])
    return page


def _side_by_side(out: Path) -> Path:
    """The page of all models, and in the terminal how often they agree."""
    from shapefirst.files import save_text
    from shapefirst.findings.comparison import compared, load_models
    from shapefirst.report import PAGE, render_models

    models = load_models(out)
    rows = list(compared(models.values()))
    for row in rows:
        if row.together == "differ":
            terminal.remark(f"the models differ: {row.study.name}, {row.statement}")
    count = Counter(row.together for row in rows)
    terminal.remark(
        f"of {len(rows)} claims the models agree in {count['agree']}, differ in {count['differ']}; "
        f"open: {count['open']}"
    )
    save_text(render_models(models), out / PAGE)
    return out / PAGE


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where `shapefirst study` put its results.")
    ] = STUDIES_OUT,
) -> None:
    """Write report.html anew from the stored results alone.

    \b
    Example:
      shapefirst report out/studies
    """
    from shapefirst.report import write_report

    terminal.line(f"Report: {write_report(folder)}")


def _check_pictured(asked: StudyOptions, studies: Sequence[Study]) -> None:
    """Raise ShapefirstError for a picture that no study looks at, and for an adapter that some cannot do with."""
    if asked.image and not any(study.pictured for study in studies):
        raise ShapefirstError("--image is for a6, which gives the model a picture beside the prompt: leave it out.")
    if asked.ip_adapter is not None and not all(study.pictured for study in studies):
        raise ShapefirstError("--ip-adapter is for a6 alone, as a model with one insists on a picture: say `study a6`.")


def _run(plan: Plan, asked: StudyOptions, given: Source, *, judge: bool) -> None:
    from shapefirst.measure.scores import alignments_for
    from shapefirst.models import is_pocket
    from shapefirst.models.adapters import add_ip_adapter
    from shapefirst.prompts import Pair
    from shapefirst.report import write_report
    from shapefirst.studies.runner import run
    from shapefirst.studies.subject import Subject, colour_of

    setting = plan.tasks[0].setting
    pictured = all(task.study.pictured for task in plan.tasks)
    pipe = asked.loading.load(asked.model, setting.sampler, conditioned=pictured)
    if asked.ip_adapter is not None:
        add_ip_adapter(pipe, asked.ip_adapter)
    used = [item for task in plan.tasks for item in task.items]
    warn_of_cuts(
        pipe, {p.text for item in used for p in ((item.source, item.target) if isinstance(item, Pair) else (item,))}
    )
    with terminal.working("Loading what scores the images"):
        alignments = alignments_for(asked.model, **asked.scorers, device=asked.device, judge=judge)
    subject = Subject(
        asked.model,
        pipe,
        alignments,
        asked.seed,
        setting.steps,
        setting.guidance_scale,
        setting.sampler,
        asked.batch_size or (POCKET_BATCH if is_pocket(asked.model) else BATCH),
        clip=asked.clip,
        scoring_device=asked.device,
        pictures=given.pictures,
        colour=colour_of(asked.model),
    )
    if asked.control is not None and any(task.study.controlled for task in plan.tasks):
        other = load_quietly(asked.control, setting.sampler, asked.device, asked.dtype)
        control = replace(subject, name=asked.control, pipe=other, colour=colour_of(asked.control))
        subject = replace(subject, control=control)
    with terminal.progress(
        f"{len(plan.tasks)} {'study' if len(plan.tasks) == 1 else 'studies'}",
        total=sum(task.cost for task in plan.tasks),
    ) as progress:
        run(
            plan,
            asked.out,
            subject,
            on_progress=progress,
            on_done=lambda stored: terminal.remark(f"{_outcome(stored)} ({stored.setting.seconds:.0f} s)"),
            write_report=write_report,
        )


def _remark(tasks: Sequence[Task], plan: Plan, given: Source, asked: StudyOptions, unjudged: Prompt | None) -> None:
    """What the user should know before the studies run."""
    from shapefirst.models import is_pocket

    short = [task for task in tasks if len(task.items) < task.wanted]
    if short:
        most = max(short, key=lambda task: task.wanted)
        terminal.note(
            f"{given.name} gives {len(most.items)} {most.study.needs}, fewer than the {most.wanted} that "
            f"{'you asked for' if asked.given[1] else f'{most.study.name} takes by default'}: all are used."
        )
    if is_pocket(asked.model) and unjudged is not None:
        warn_of_unjudged(unjudged, given.prompts, given.name)
    if plan.strangers:
        terminal.note(
            f"the report in {str(asked.out)!r} also shows {', '.join(plan.strangers)}, which are of another setting: "
            "run them again, or choose another --out."
        )
    for stored in plan.kept:
        terminal.remark(f"{_outcome(stored)} (kept from an earlier run)")


def _outcome(stored: Stored) -> str:
    verdict = ", ".join(claim.verdict for claim in stored.claims) or f"does not apply: {stored.reason}"
    return f"{stored.name}  {stored.title}: {verdict}"


def _list(names: Sequence[str]) -> None:
    from shapefirst.studies import question_of

    print_table(("name", "title", "question"), [(name, *question_of(name)) for name in names])


def _results(found: Sequence[Stored]) -> None:
    """One row a claim."""
    rows: list[list[Value]] = []
    for stored in found:
        if stored.reason:
            rows.append([stored.name, stored.title, stored.paper, stored.reason, Entry(None, ""), "does not apply"])
        for claim in stored.claims:
            interval = claim.found
            ours = f"{claim.quantity}: {interval.estimate:.3g} ({interval.low:.3g} to {interval.high:.3g})"
            paper = f"our own claim: {claim.paper}" if claim.is_own else claim.paper
            verdict = f"{claim.verdict}. {claim.reason}" if claim.reason else claim.verdict
            rows.append([stored.name, claim.statement, paper, ours, interval.n, verdict])
    print_table(("study", "claim", "paper", "ours (95% interval)", "n", "verdict"), rows)
