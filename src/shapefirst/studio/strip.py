"""A policy as a strip of steps to click on, and a strip that was clicked on as the words of a policy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from shapefirst.errors import ShapefirstError
from shapefirst.policies.auto import Policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.words import describe

__all__ = ["Strip", "strip_of", "titled", "words_of_strip"]


@dataclass(frozen=True)
class Strip:
    """The steps of a policy.

    Attributes:
        guided: Those that evaluate both branches, counted from 0; None where that is decided while sampling, or the
            steps are not those of the sampler.
        said: The policy in words.
    """

    guided: frozenset[int] | None
    said: str


def titled(policy: Policy, steps: int) -> str:
    """The policy in words, as a title."""
    said = describe(policy, steps)
    return said[:1].upper() + said[1:]


def strip_of(policy: Policy, steps: int) -> Strip:
    """The strip of a policy in a run of so many steps."""
    said = titled(policy, steps)
    if not isinstance(policy, TextSchedule):
        return Strip(None, f"{said}: its steps are known when the picture is there")
    if policy.own_steps is not None:
        return Strip(None, f"{said}, in the place of the {steps}")
    return Strip(policy.guided_steps(steps), said)


def words_of_strip(policy: Policy, guided: Collection[int], steps: int) -> str:
    """The words of a policy that does in the other steps what ``policy`` does, and guides these.

    Where ``policy`` has no other steps, they are extrapolated.

    Raises:
        ShapefirstError: It extrapolates, and the first step is not among them.
    """
    if not isinstance(policy, TextSchedule) or policy.own_steps is not None:
        raise ShapefirstError("The steps of this policy cannot be chosen: take another one, such as budget:0.6.")
    chosen = sorted(set(guided))
    keep, order = ("neither", 1) if policy == TextSchedule.always() else (policy.keep, policy.order)
    if len(chosen) == steps:
        return "full"
    if order is None and chosen == list(range(len(chosen))):
        return f"{'text' if keep == 'text' else 'paper'}:{len(chosen)}"
    if order is not None and 0 not in chosen:
        raise ShapefirstError("What is extrapolated needs a guided step to begin with: leave the first step in.")
    options = ("" if keep == "neither" else f",keep={keep}") + (
        "" if order == 1 else f",order={'none' if order is None else order}"
    )
    return f"steps:{'+'.join(_spans(chosen))}{options}"


def _spans(steps: list[int]) -> list[str]:
    """0-4, 7, 11-12."""
    spans: list[list[int]] = []
    for step in steps:
        if spans and step == spans[-1][1] + 1:
            spans[-1][1] = step
        else:
            spans.append([step, step])
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]
