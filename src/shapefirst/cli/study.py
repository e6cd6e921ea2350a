"""``shapefirst study`` and ``shapefirst report``. Words and wiring only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from shapefirst import __version__
from shapefirst.checks import check_number, check_seed
from shapefirst.cli import terminal
from shapefirst.cli.loading import load_quietly, obtained, warn_of_cuts, warn_of_unjudged
from shapefirst.cli.options import (
    Device,
    Dtype,
    GuidanceScale,
    Model,
    Sampler,
    Scores,
    command_line,
    named_models,
    unpacked,
)
from shapefirst.errors import ShapefirstError, printable

if TYPE_CHECKING:
    from shapefirst.findings.finding import Study
    from shapefirst.findings.storage import Stored, StudySetting
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


@dataclass(frozen=True)
class StudyOptions:
    """What is studied, how, and where the results go."""

    model: Model = "pocket"
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Prompts, one a line; pairs are made of them.", show_default="pocket's words"
        ),
    ] = None
    pairs_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pairs of prompts, two a line with a tab between.")
    ] = None
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A picture to give to the model beside the prompt, for a6; several in turn."),
    ] = None
    ip_adapter: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An IP-Adapter to put on the model for a6; beside its image_encoder."),
    ] = None
    prompts: Annotated[
        int | None,
        typer.Option(metavar="N", help="Prompts or pairs of every study.", show_default="each study's own number"),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of the choice of prompts and of the first image.")] = 0
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Denoising steps.", show_default=f"{STEPS}, or {QUICK_STEPS} with --quick"),
    ] = None
    sampler: Sampler = None
    guidance_scale: GuidanceScale = None
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results and report.html go.")] = OUT
    quick: Annotated[bool, typer.Option("--quick", help="A few prompts and steps: to see it work.")] = False
    force: Annotated[
        bool, typer.Option("--force", help="Replace results of another model, seed or number of prompts.")
    ] = False
    clip: Annotated[
        str | None, typer.Option(metavar="ID", help="A CLIP model on the hub or the disk to score images by.")
    ] = None
    vqa: Annotated[
        str | None, typer.Option(metavar="ID", help="A visual-question-answering model to score images by.")
    ] = None
    vlm: Annotated[str | None, typer.Option(metavar="ID", help="A vision-language model to score images by.")] = None
    score: Scores = None
    device: Device = None
    dtype: Dtype = None
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images at a time.", show_default="32 with pocket, else 4")
    ] = None

    @property
    def number_of_steps(self) -> int:
        return self.steps if self.steps is not None else QUICK_STEPS if self.quick else STEPS

    @property
    def scale(self) -> float:
        from shapefirst.models import default_guidance_scale

        return float(default_guidance_scale(self.model) if self.guidance_scale is None else self.guidance_scale)

    @property
    def scorers(self) -> dict[str, str | None]:
        return {"clip": self.clip, "vqa": self.vqa, "vlm": self.vlm, **named_models(self.score)}

    def check(self) -> None:
        """Raise ShapefirstError unless the numbers are in range, the packages there and the folder writable."""
        from shapefirst.files import check_writable
        from shapefirst.models import sampler_info
        from shapefirst.models.adapters import check_ip_adapter

        if self.prompts is not None:
            why = "an interval over prompts needs more than one"
            check_number(self.prompts, "pairs", "--prompts", least=2, why=why)
        check_seed(self.seed, MOST_IMAGES)
        why = "the studies look at tenths of a run, which fewer steps have not got"
        check_number(self.number_of_steps, "steps", "--steps", least=FEWEST_STEPS, why=why)
        check_number(self.scale, "guidance scale", "--guidance-scale")
        if self.scale <= 1:
            raise ShapefirstError(
                f"--guidance-scale must be above 1, not {self.scale:g}: without guidance the text has one branch."
            )
        if self.sampler is not None:
            sampler_info(self.sampler)
        if self.ip_adapter is not None:
            check_ip_adapter(self.ip_adapter)
        if self.batch_size is not None:
            check_number(self.batch_size, "batch size", "--batch-size")
        check_writable(self.out)

    def setting(self) -> StudySetting:
        """What all results have in common; the model is downloaded if it is not there."""
        from shapefirst.findings.storage import StudySetting
        from shapefirst.models import usual_sampler
        from shapefirst.models.fingerprint import fingerprint
        from shapefirst.models.machine import hardware

        place = obtained(self.model, self.dtype, self.device)
        return StudySetting(
            model=self.model,
            fingerprint=fingerprint(place, {**self.scorers, "dtype": self.dtype}, self.ip_adapter),
            version=__version__,
            seed=self.seed,
            steps=self.number_of_steps,
            guidance_scale=self.scale,
            sampler=self.sampler or usual_sampler(place),
            quick=self.quick,
            count=0,
            prompts="",
            command="",
            machine=hardware(self.device),
            seconds=0.0,
        )


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
      shapefirst study f4 f5 --prompts 128
      shapefirst study all --model sd15 --prompts-file prompts.txt --out out/sd15
      shapefirst study a6 --model instruct-pix2pix/ --image portrait.png --image street.png --out out/a6
    """
    from shapefirst.files import LOCK, cleared, locked
    from shapefirst.models import locate
    from shapefirst.studies import chosen
    from shapefirst.studies.selection import source

    wanted = chosen(names or (["all"] if list_them else []))
    if list_them:
        _list(wanted)
        return
    asked.check()
    given = source(asked.prompts_file, asked.pairs_file, asked.seed, asked.image or ())
    locate(asked.model)  # or say at once that there is no such model
    if missing := [name for name in MODULES if find_spec(name) is None]:
        raise ShapefirstError(f"Studies need {' and '.join(missing)}: pip install 'shapefirst[studies]'.")
    with locked(asked.out / LOCK, str(asked.out)):
        with terminal.working("Getting torch and diffusers ready"):
            from shapefirst.findings.storage import load_stored
            from shapefirst.measure.judging import can_judge
            from shapefirst.measure.scores import check_scores
            from shapefirst.report import PAGE, write_report
            from shapefirst.studies import study_named as find
            from shapefirst.studies.runner import make_plan, make_tasks

            studies = [find(name) for name in wanted]
        _check_pictured(asked, studies)
        check_scores(named_models(asked.score))
        repeated = partial(command_line, context, without=NOT_REPEATED)
        tasks = make_tasks(studies, given, asked.setting(), asked.prompts, lambda name: repeated(("study", name)))
        plan = make_plan(tasks, asked.out, force=asked.force)
        unjudged = next((p for p in given.prompts if not can_judge(p)), None)
        _remark(tasks, plan, given, asked, unjudged)
        if plan.tasks:
            _run(plan, asked, given, judge=unjudged is None)
        cleared(asked.out / PAGE)
        page = write_report(asked.out)
        _results([found for name in wanted if (found := load_stored(asked.out, name)) is not None])
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
    from shapefirst.studies.subject import Subject

    setting = plan.tasks[0].setting
    pictured = all(task.study.pictured for task in plan.tasks)
    pipe = load_quietly(asked.model, setting.sampler, asked.device, asked.dtype, conditioned=pictured)
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
    )
    with terminal.progress(f"{len(plan.tasks)} studies", total=sum(task.cost for task in plan.tasks)) as progress:
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
            f"{'you asked for' if asked.prompts else f'{most.study.name} takes by default'}: all are used."
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
            table.add_row(*(Text(printable(cell), overflow="fold") for cell in (stored.name, *row)))
    terminal.results().print(table)
