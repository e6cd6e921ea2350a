"""Studies one after the other: each result is stored as soon as it is there, and kept when the same is asked for again.

A study that was interrupted has left nothing behind and starts again; those before it stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shapefirst.errors import ShapefirstError
from shapefirst.findings.finding import DoesNotApply, Study
from shapefirst.findings.storage import (
    Stored,
    StudySetting,
    load_all,
    load_stored,
    mismatch,
    recover_all,
    save,
    save_inapplicable,
)
from shapefirst.prompts import Pair, Prompt
from shapefirst.studies.selection import Source, digest

if TYPE_CHECKING:
    from shapefirst.studies.subject import Subject

__all__ = ["Plan", "Task", "make_plan", "make_tasks", "run"]


@dataclass(frozen=True)
class Task:
    """A study, what it is given (``wanted`` prompts or pairs, or what there are), and the setting of its result."""

    study: Study
    items: Sequence[Prompt] | Sequence[Pair]
    setting: StudySetting
    wanted: int

    @property
    def cost(self) -> float:
        """About how long it takes, in images of 50 steps."""
        return self.study.cost * len(self.items) / self.study.count * self.setting.steps / 50


@dataclass(frozen=True)
class Plan:
    """What is to be run, what is kept, and what lies beside them in the same folder though of another setting."""

    tasks: tuple[Task, ...]
    kept: tuple[Stored, ...]
    strangers: tuple[str, ...] = ()


def make_tasks(
    studies: Sequence[Study], given: Source, common: StudySetting, count: int | None, command: Callable[[str], str]
) -> list[Task]:
    """What each study is given.

    Args:
        studies: In their order.
        given: Where prompts come from.
        common: What their settings have in common; its ``words`` are of those that have a control.
        count: Prompts or pairs of each; None for the study's own number, which ``common.quick`` tells.
        command: Study's name -> the line that repeats it.

    Raises:
        ShapefirstError: There are too few prompts or pairs.
    """
    tasks = []
    for study in studies:
        wanted = count or (study.quick if common.quick else study.count)
        items = given.draw(study.needs, wanted)
        told = digest(items, given.pictures if study.pictured else ())
        beside = common.words if study.controlled else ""
        setting = replace(common, count=len(items), prompts=told, command=command(study.name), words=beside)
        tasks.append(Task(study, items, setting, wanted))
    return tasks


def make_plan(tasks: Sequence[Task], out: Path, *, force: bool = False) -> Plan:
    """Looks at what ``out`` holds already, which nobody else may write to meanwhile.

    Raises:
        ShapefirstError: It holds results that cannot be read, or of another setting. The latter only ``force``
            replaces; those of studies that are not asked for it leaves alone, and the plan names them.
    """
    recover_all(out)
    to_run, kept = [], []
    for task in tasks:
        stored = load_stored(out, task.study.name)
        if stored is not None and not (unlike := _unlike(stored.setting, task.setting)):
            kept.append(stored)
            continue
        if stored is not None and not force:
            raise ShapefirstError(
                f"{str(out)!r} holds a result of {task.study.name} from another setting ({unlike}): choose another "
                "--out, or replace it with --force."
            )
        to_run.append(task)
    strangers = _strangers(tasks, out)
    if strangers and not force:
        name, unlike = strangers[0]
        raise ShapefirstError(
            f"{str(out)!r} holds a result of {name} from another setting ({unlike}), and the report would show both: "
            "choose another --out, or say --force."
        )
    return Plan(tuple(to_run), tuple(kept), tuple(name for name, _ in strangers))


def run(
    plan: Plan,
    out: Path,
    subject: Subject,
    *,
    on_progress: Callable[[float], None],
    on_done: Callable[[Stored], None],
    write_report: Callable[[Path], Path],
) -> None:
    """Runs the plan's tasks.

    Args:
        plan: From ``make_plan``.
        out: Folder of the results.
        subject: The model; every study gets it with a meter of its own.
        on_progress: Told how much of the tasks' summed ``cost`` is done.
        on_done: Told each result once it is stored.
        write_report: Makes the page of what is stored under ``out``, after every study.

    Raises:
        ShapefirstError: A study cannot work with what it was given. What was finished before it is stored.
    """
    from shapefirst.studies.subject import Meter

    done = 0.0
    for task in plan.tasks:
        meter = Meter(_share_of(task.cost, done, on_progress))
        start = time.perf_counter()
        try:
            finding = task.study.run(replace(subject, meter=meter), task.items)
        except DoesNotApply as reason:
            save_inapplicable(out, task.study, str(reason), _timed(task.setting, start))
        else:
            save(out, task.study, finding, _timed(task.setting, start))
        write_report(out)
        done += task.cost
        on_progress(done)
        stored = load_stored(out, task.study.name)
        assert stored is not None
        on_done(stored)


def _share_of(cost: float, before: float, tell: Callable[[float], None]) -> Callable[[float], None]:
    """From how much of a study is done to how much of all."""
    return lambda share: tell(before + share * cost)


def _timed(setting: StudySetting, start: float) -> StudySetting:
    return replace(setting, seconds=round(time.perf_counter() - start, 2))


def _strangers(tasks: Sequence[Task], out: Path) -> list[tuple[str, str]]:
    """Stored studies that are not asked for and are of another model, seed or sampling, and how they differ.

    Each may have a number of prompts, prompts and a control of its own, as it has by default.
    """
    asked = {task.study.name for task in tasks}
    found = []
    for stored in load_all(out):
        if stored.name in asked:
            continue
        own = stored.setting
        wanted = replace(tasks[0].setting, count=own.count, prompts=own.prompts, words=own.words)
        if unlike := _unlike(stored.setting, wanted):
            found.append((stored.name, unlike))
    return found


def _unlike(stored: StudySetting, wanted: StudySetting) -> str:
    """How the settings differ, in words: weights and, behind a plus, what images were scored by, apart."""
    (weights, _, scores), (own_weights, _, own_scores) = (s.fingerprint.partition("+") for s in (stored, wanted))
    unlike = mismatch(replace(stored, fingerprint=weights), replace(wanted, fingerprint=own_weights))
    if scores == own_scores:
        return unlike
    other = f"scores by {scores or 'the default'} instead of {own_scores or 'the default'}"
    return f"{unlike}, {other}" if unlike else other
