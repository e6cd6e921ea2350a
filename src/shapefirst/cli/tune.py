"""``shapefirst tune``. Words and wiring only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shapefirst.checks import check_number, check_prompt, share_in
from shapefirst.cli import terminal
from shapefirst.cli.loading import obtained, warn_of_cuts
from shapefirst.cli.options import GuidanceScale, Model, Sampler, prompts_and_count, unpacked
from shapefirst.cli.options_generate import BatchSize, MachineOptions
from shapefirst.cli.tabular import Entry, Value, print_table
from shapefirst.errors import ShapefirstError, imported, shortened

if TYPE_CHECKING:
    from shapefirst.measure.intervals import Interval
    from shapefirst.tuning.candidates import Found

__all__ = ["tune"]

FEWEST, MOST = 16, 64  # prompts to calibrate on
FEWEST_ASKED: Final = 4  # where one says how many
FEWEST_STEPS: Final = 10
CALIBRATION_SEED: Final = 1  # of pocket's prompts


@dataclass(frozen=True)
class _Machine(MachineOptions):
    """With more images at a time, since nobody waits for the first."""

    batch_size: BatchSize = 8


@unpacked
def tune(
    machine: _Machine,
    model: Model = "pocket",
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help=f"Prompts, one a line: {FEWEST} to {MOST} to choose by, and as many more to check the choice on; "
            "or how many of pocket's.",
            show_default="pocket's words",
        ),
    ] = None,
    calibration_prompts: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"How many to choose by, and as many to check on, {FEWEST_ASKED} or more: fewer than {FEWEST} where a "
            "model is slow.",
            show_default=f"half of the prompts, at most {MOST}",
        ),
    ] = None,
    save_time: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="The closest policy that saves this share of the time, at most 0.7: 0.4 or 40%.",
            show_default="0.4",
        ),
    ] = None,
    max_l1: Annotated[
        float | None, typer.Option("--max-l1", metavar="L1", help="The fastest policy whose images stay this close.")
    ] = None,
    goal: Annotated[
        str,
        typer.Option(
            metavar="GOAL",
            help="keep: the picture of your sampler's run of --steps, sooner; best: the picture that the model "
            "converges to, by any sampler.",
        ),
    ] = "keep",
    evaluations: Annotated[
        int | None, typer.Option(metavar="N", help="The closest picture for so many denoiser evaluations an image.")
    ] = None,
    sampler: Sampler = None,
    steps: Annotated[int, typer.Option(metavar="N", help="Denoising steps of full guidance.")] = 50,
    guidance_scale: GuidanceScale = None,
    negative_prompt: Annotated[str | None, typer.Option(metavar="P", help="What not to draw.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the policy goes.")] = Path("policy.json"),
) -> None:
    """Find the policy that keeps the picture, or comes closest to the best one, for the time you want to save.

    Runs candidates on some prompts, measures the choice on others, and writes a small JSON for `generate --policy` and
    `guide(pipe, "policy.json")`. What is done is kept: after an interruption the same command goes on.

    \b
    Examples:
      shapefirst tune --save-time 0.4
      shapefirst tune --max-l1 0.002 --sampler dpm-solver-karras --steps 25 --out dpm.json
      shapefirst tune --goal best --evaluations 30 --out best.json
      shapefirst tune --model sd15 --prompts prompts.txt --out sd15.json
      shapefirst tune --model sdxl --prompts prompts.txt --lora style.safetensors=0.7 --offload model --out style.json
    """
    from shapefirst.files import LOCK, check_file, cleared, locked
    from shapefirst.models import default_guidance_scale, usual_sampler

    scale = default_guidance_scale(model) if guidance_scale is None else guidance_scale
    saving = _saving(save_time, other=max_l1 is not None or evaluations is not None)
    _check(goal, sampler, steps, negative_prompt, scale)
    machine.check()
    chosen_by, checked_on = _halves(prompts, calibration_prompts)
    check_file(out)
    with locked(out.with_name(f".{out.name}{LOCK}"), str(out)):
        with terminal.working("Getting torch and diffusers ready"):
            from shapefirst.checks import check_steps
            from shapefirst.images.jobs import Sampling
            from shapefirst.policies.file import write_policy
            from shapefirst.tuning.candidates import choice_by
            from shapefirst.tuning.held_out import held_out, held_out_cost
            from shapefirst.tuning.kept import unfinished_search
            from shapefirst.tuning.runner import search_cost, try_policies, tuned_policy
            from shapefirst.tuning.search import Tuner
        choice = choice_by(saving, max_l1, evaluations, goal)
        sampler = sampler or usual_sampler(obtained(model, machine.dtype, machine.device))
        pipe = machine.load(model, sampler)
        check_steps(steps, pipe.scheduler)
        warn_of_cuts(pipe, {*chosen_by, *checked_on})
        tuner = Tuner(pipe, Sampling(scale, steps, negative_prompt), chosen_by, machine.batch_size, goal, evaluations)
        kept = unfinished_search(out, tuner, machine.dtype)
        if kept.goes_on:
            terminal.note(f"going on where it was interrupted, with {len(kept.runs)} policies already tried.")
        cost = _told(search_cost(tuner), held_out_cost(tuner, len(checked_on)), steps, len(chosen_by))
        with terminal.counting(f"Trying policies on {len(chosen_by)} prompts", total=cost) as tick:
            found = try_policies(tuner, kept, choice, tick)
        chosen = choice(found)
        _print_front(found, chosen, saving, ends=max_l1 is not None)
        with terminal.progress(f"Checking the choice on {len(checked_on)} other prompts", total=1) as report:
            measured = held_out(tuner, chosen.candidate, checked_on, report)
        policy = tuned_policy(model, tuner, found, chosen.candidate, len(checked_on), *measured, machine.loras)
        write_policy(policy, cleared(out))
        kept.forget()
    used = f"--model {model}{f' --sampler {sampler}' * (goal == 'keep')} {machine.words}".rstrip()
    _print_choice(chosen, measured, checked_on, out, used)


def _saving(given: str | None, *, other: bool) -> float | None:
    """The share of the time to save, if that is what is asked for, or nothing `other` is."""
    if given is None and other:
        return None
    return share_in("0.4" if given is None else given, "--save-time", "--save-time {}")


def _check(goal: str, sampler: str | None, steps: int, negative_prompt: str | None, scale: float) -> None:
    from shapefirst.models import sampler_info

    if goal not in ("keep", "best"):
        raise ShapefirstError(f"--goal is keep or best, not {shortened(goal)!r}.")
    if sampler is not None:
        sampler_info(sampler)
    check_number(steps, "steps", "--steps", least=FEWEST_STEPS, why="with fewer there is nothing to choose among")
    check_number(scale, "guidance scale", "--guidance-scale")
    check_prompt(negative_prompt or "", "--negative-prompt")
    if scale <= 1:
        raise ShapefirstError(f"At a guidance scale of {scale:g} no guidance runs, so there is nothing to tune.")
    imported("scipy.special", "Intervals are computed")


def _told(search: float, check: float, steps: int, prompts: int) -> float:
    """What the search costs, in evaluations; said before it begins, with what the check of its choice will."""
    cost = search + check
    terminal.remark(
        f"About {cost:,.0f} evaluations of the denoiser, as many as {cost / (2 * steps):,.0f} pictures of full "
        f"guidance take: {prompts} prompts to choose by (--calibration-prompts), and as many to check the choice on."
    )
    return search


def _halves(given: str | None, half: int | None) -> tuple[list[str], list[str]]:
    """Prompts to choose by, and others to check on: so many of each, or what there are."""
    from shapefirst.prompts import mixed, read_prompts

    file, count = prompts_and_count(given)
    if half is not None:
        why = "fewer say nothing about others"
        check_number(half, "pairs", "--calibration-prompts", least=FEWEST_ASKED, why=why)
        count = 2 * half if count is None else count
    least = 2 * (half or FEWEST)
    if file is None:
        count = least if count is None else count
        check_number(count, "pairs", "--prompts", least=least, why="half of them choose and half check the choice")
        prompts = mixed(count, CALIBRATION_SEED)
    else:
        prompts = list(dict.fromkeys(read_prompts(file)))
        if len(prompts) < least:
            raise ShapefirstError(
                f"There are {len(prompts)} different prompts in {str(file)!r}: give at least {least}, half of "
                "them to choose by and half to check the choice on."
            )
    half = half or min(len(prompts) // 2, MOST)
    return prompts[:half], prompts[half : 2 * half]


def _print_front(found: Sequence[Found], chosen: Found, saving: float | None, *, ends: bool) -> None:
    """What ran, the slowest first; those that another one beats in both time and L1 are marked. `saving` is the share
    of the time that was asked for; `ends` says whether a limit of L1 was, which the search may not have reached."""
    from shapefirst.tuning.candidates import SAVINGS, near_miss

    rows: list[list[Value]] = []
    looks: list[str] = []
    for one in sorted(found, key=lambda f: f.time_saved):
        distance = one.distance
        beaten = any(
            f.time_saved > one.time_saved and f.distance.estimate < distance.estimate for f in found if f is not one
        )
        mark = "chosen" if one is chosen else "beaten" if beaten else ""
        rows.append(
            [
                _named(one),
                one.candidate.evaluations,
                Entry(one.time_saved, f"{one.time_saved:.0%}"),
                Entry(distance.estimate, f"{distance:.4f}"),
                mark,
            ]
        )
        looks.append({"chosen": "bold", "beaten": "dim"}.get(mark, ""))
    print_table(("policy", "evaluations", "time saved", "L1 (95% interval)", "which"), rows, looks=looks)
    if "dim" in looks:
        terminal.line("beaten: another one is closer and saves more time.")
    if chosen.candidate.schedule.solver is None:
        terminal.line(f"→ {chosen.candidate.schedule.strip(chosen.candidate.steps)}")
    if ends and chosen is max(found, key=lambda one: one.time_saved):
        terminal.note(f"the search ends at {SAVINGS[-1]:.0%} of the evaluations: more may stay as close, too.")
    if saving is not None and (near := near_miss(found, chosen, saving)) is not None:
        terminal.note(
            f"{_named(near)}: saves {near.time_saved:.1%} of the time, not {saving:.1%}, at an L1 of "
            f"{near.distance.estimate:.4f}, not {chosen.distance.estimate:.4f}; --evaluations "
            f"{near.candidate.evaluations} takes it, however busy the machine."
        )


def _print_choice(
    chosen: Found, measured: tuple[Interval, Interval], checked_on: Sequence[str], out: Path, made_with: str
) -> None:
    """What was found on the other prompts, and how to use it."""
    l1, saved = measured
    terminal.line(
        f"On {len(checked_on)} other prompts: L1 {l1:.4f}, time saved {saved:.0%} (expected: "
        f"{chosen.distance.estimate:.4f}, {chosen.time_saved:.0%}).\nPolicy: {out}, {chosen.candidate.steps} steps\n"
        f'Use it: shapefirst generate "..." {made_with} --policy {out}\n'
        f'or, in Python: with guide(pipe, "{out}"): pipe(prompt)'
    )


def _named(one: Found) -> str:
    from shapefirst.policies.words import describe

    order = one.candidate.schedule.order
    return describe(one.candidate.schedule, one.candidate.steps) + (f" (order {order})" if order else "")
