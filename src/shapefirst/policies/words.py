"""Policies by name, as `guide` and the command line take them.

    full                    both branches in every step
    paper:25  paper:0.5     text in the first 25 steps, or in that share of them, the null branch after
    text:25                 the same, the text branch after (diffusers' SDCFGCutoffCallback)
    budget:0.6  budget:60%  at most that share of the evaluations of full guidance, extrapolated between guided steps
    every:3                 every 3rd step guided, extrapolated between them
    growing:5x1.3           5 guided steps, then gaps that grow by 1.3
    steps:0-4+7+11+20       these steps guided
    tol:0.006               each image decides while sampling
    policy.json             what `shapefirst tune` wrote

All but the first three take options, as in "every:3,keep=text,order=2": keep is null, text or neither (the default),
and order 0 (the last prediction again), 1 (the default), 2, 3 or none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from shapefirst.checks import BOUNDS, Steps, number_in, share_in
from shapefirst.errors import ShapefirstError, said, shortened
from shapefirst.files import on_disk
from shapefirst.policies.auto import Auto, Policy
from shapefirst.policies.file import PolicyFile, read_policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.signatures import guarded

__all__ = ["EXAMPLES", "describe", "find_policy", "parse_policy", "policy_of", "text_steps_of"]

_LONGEST: Final = 10_000  # characters of a list of steps


#: One of each kind.
EXAMPLES: Final = (
    "full",
    "paper:25",
    "text:25",
    "budget:0.6",
    "every:3",
    "growing:5x1.3",
    "steps:0-4+7+11",
    "tol:0.006",
)


def policy_of(
    pipe: Any, policy: Policy | str | Path | None = None, *, budget: float | str | None = None, tol: float | None = None
) -> Policy:
    """The policy that exactly one of the three says; see `shapefirst.guide`."""
    if (policy is not None) + (budget is not None) + (tol is not None) != 1:
        raise ShapefirstError('Give one of a policy (such as "paper:25"), budget=0.6 and tol=0.006.')
    if budget is not None:
        return TextSchedule.within(budget)
    if tol is not None:
        return Auto(number_in(tol, "tol"))
    if isinstance(policy, TextSchedule | Auto):
        return policy
    if isinstance(policy, str | Path):
        found = find_policy(policy)
        return found.policy_for(pipe) if isinstance(found, PolicyFile) else found
    raise ShapefirstError(
        'guide() takes a TextSchedule, an Auto, words such as "paper:25" or a policy file, not '
        f"{said(policy)}{_meant(policy)}."
    )


@guarded
def find_policy(words: str | Path) -> Policy | PolicyFile:
    """What `words` name, or the tuned policy where they are the path of one.

    Raises:
        ShapefirstError: They name none, or there is no policy in the file.
    """
    if isinstance(words, Path) or words.endswith(".json"):
        return read_policy(Path(words))
    named = words.strip().split(",")[0].partition(":")[0] in POLICIES
    file = None if named else on_disk(words)
    return parse_policy(words) if file is None else read_policy(file)


@guarded
def parse_policy(words: str) -> Policy:
    """The policy that `words` name; see the module.

    Raises:
        ShapefirstError: They name none.
    """
    head, *options = words.strip().split(",")
    name, _, value = head.partition(":")
    if name not in POLICIES or bool(value) != (name != "full"):
        raise ShapefirstError(
            f"There is no policy {shortened(words)!r}{_meant(words)}: say {', '.join(EXAMPLES)}, {_further()}or the "
            "path of a policy file (.json)."
        )
    pairs = [_option(option, words) for option in options]
    given = dict(pairs)
    if len(given) < len(pairs):
        raise ShapefirstError(f"{shortened(words)!r} says the same option twice: say it once.")
    if given and name in ("full", "paper", "text"):
        raise ShapefirstError(f"The policy {name} takes no options, but {shortened(words)!r} has some.")
    return POLICIES[name](value, **given)


@guarded
def describe(policy: Policy, num_steps: Steps) -> str:
    """The policy in words for people, such as "text in the first 25 of 50 steps".

    Raises:
        ShapefirstError: It does not fit the number of steps.
    """
    num_steps = policy.own_steps or num_steps
    if isinstance(policy, Auto):
        return f"tolerance {policy.tol:g}, each image decides"
    if policy.solver is not None and policy.num_steps is not None:
        fitted = policy.solver.class_name == "FittedScheduler"
        how = "a solver fitted to the model" if fitted else policy.solver.label
        return f"{policy.num_steps} steps of {how}"
    k, steps = policy.text_steps(num_steps), "step" if num_steps == 1 else "steps"
    if k == num_steps:
        return f"full guidance, {num_steps} {steps}"
    if policy.order is None and policy.guided_steps(num_steps) == set(range(k)):
        return f"text in the first {k} of {num_steps} {steps}" + (", text branch kept" if policy.keep == "text" else "")
    others = {"null": "the null branch in the others", "text": "the text branch in the others"}.get(policy.keep, "")
    how = "" if policy.order is None else "the last prediction reused" if policy.order == 0 else "extrapolated between"
    return ", ".join(filter(None, (f"{k} of {num_steps} {steps} guided", others, how)))


def text_steps_of(text: str, steps: int) -> list[int]:
    """The numbers of text steps that are meant in a run of ``steps`` steps by "25", "50%", "0:50:5" for 0, 5, ..., 50,
    or several of these with commas between.

    Raises:
        ShapefirstError: It means none, or more than there are steps.
    """
    if len(text) <= _LONGEST and "," in text:
        return [k for part in text.split(",") for k in text_steps_of(part.strip(), steps)]
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?%", text):
        if (part := share_in(text, "it", "{}")) > 1:
            raise ShapefirstError(f"The text cannot be used in {said(text)} of the steps: give 0% to 100%.")
        return [math.floor(part * steps + 0.5)]
    if match := re.fullmatch(r"(\d{1,9}):(\d{1,9}):(\d{1,9})", text):
        start, stop, gap = map(int, match.groups())
        if gap < 1 or start > stop:
            raise ShapefirstError(f"{text!r} holds no number of text steps: say 0:50:5 for 0, 5, ..., 50.")
        numbers = range(start, stop + 1, gap)
    elif re.fullmatch(r"\d{1,9}", text):
        numbers = range(int(text), int(text) + 1)
    else:
        raise ShapefirstError(f"{said(text)} is no number for --text-steps: say 25, 50%, 0,10,25 or 0:50:5.")
    if numbers and numbers[-1] > steps:
        raise ShapefirstError(
            f"The text cannot be used in {numbers[-1]} of {steps} steps: give at most {steps}, or per cent of them."
        )
    return list(numbers)


def _meant(policy: object) -> str:
    """What a number or a text in the place of a policy is likely to mean, for a sentence."""
    text = policy.strip() if isinstance(policy, str) else "" if isinstance(policy, bool) else said(policy)
    if re.fullmatch(r"\w+=[^=]+", text):
        return f" (did you mean {text.replace('=', ':')}?)"
    if not re.fullmatch(r"\d{1,4}(\.\d+)?%?|\d?\.\d+%?", text):
        return ""
    number = float(text.rstrip("%")) / (100 if "%" in text else 1)
    typed = isinstance(policy, str)  # perhaps on the command line; a number is given in Python alone
    if number > 1:
        part = f", or budget{':' if typed else '='}{number / 100:g}" if number <= 100 else ""
        return f" (did you mean paper:{number:g}, the text in so many steps{part}?)" if number % 1 == 0 else ""
    words = f"budget:{number:g}, or budget={number:g} in Python" if typed else f"budget={number:g}"
    return f" (did you mean {words}?)" if number else ""


def _further() -> str:
    """Policies that were registered elsewhere, for a sentence."""
    return "".join(f"{name}:..., " for name in POLICIES if name not in _OWN)


def _option(text: str, words: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name == "keep":
        return name, value
    if name == "order" and value in ("none", "0", "1", "2", "3"):
        return name, None if value == "none" else int(value)
    raise ShapefirstError(
        f"{text!r} in {shortened(words)!r} is no option of a policy: say keep=null, keep=text or keep=neither, or "
        "order=0, 1, 2, 3 or none."
    )


def _whole(value: str, name: str) -> int:
    _, most = BOUNDS["steps"]
    if not re.fullmatch(r"\d{1,9}", value) or int(value) > most:
        raise ShapefirstError(
            f"In a policy, {name} must be a whole number of steps, from 0 to {most:,}, not {said(value)}."
        )
    return int(value)


def _until(keep: Any) -> Callable[[str], Policy]:
    def make(value: str) -> Policy:
        if "." in value or value.endswith("%"):
            return TextSchedule.until(fraction=share_in(value, "the share of the steps", "paper:{}"), keep=keep)
        return TextSchedule.until(_whole(value, "the number of text steps"), keep=keep)

    return make


def _growing(value: str, **options: Any) -> Policy:
    first, cross, ratio = value.partition("x")
    if not cross:
        raise ShapefirstError(f"'growing:{value}' lacks the ratio of its gaps: say growing:{value}x1.3.")
    return TextSchedule.growing(_whole(first, "the first steps"), number_in(ratio, "In a policy, the ratio"), **options)


def _steps(value: str, **options: Any) -> Policy:
    steps: list[int] = []
    for part in value.split("+"):
        first, dash, last = part.partition("-")
        start = _whole(first, "a step")
        end = _whole(last, "a step") if dash else start
        if end < start:
            raise ShapefirstError(f"There are no steps from {start} to {end} in 'steps:{value}': say {end}-{start}.")
        steps += range(start, end + 1)
    return TextSchedule.at(steps, **options)


#: Name -> (what stands behind its colon, options) -> policy. One more entry is one more policy in every command.
POLICIES: Final[dict[str, Callable[..., Policy]]] = {
    "full": lambda value: TextSchedule.always(),
    "paper": _until("null"),
    "text": _until("text"),
    "budget": lambda value, **options: TextSchedule.within(share_in(value, "budget", "budget:{}"), **options),
    "every": lambda value, **options: TextSchedule.every(_whole(value, "the gap"), **options),
    "growing": _growing,
    "steps": _steps,
    "tol": lambda value, **options: Auto(number_in(value, "In a policy, the tolerance"), **options),
}
_OWN: Final = frozenset(POLICIES)
