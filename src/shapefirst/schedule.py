"""Which denoising steps use the text, as plain data.

Classifier-free guidance combines two predictions in each of the N steps (Yi et al. 2024, arXiv 2405.15330, eq. 9),

    eps_hat = eps(t, x, 0) + w (eps(t, x, C) - eps(t, x, 0)),

and so costs two denoiser evaluations per image. In a step that does not use the text a single branch runs and stands
for eps_hat: the null branch eps(t, x, 0), as in the paper, or the text branch eps(t, x, C).

Steps are counted from 0 in sampling order: step 0 is the noisiest.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Literal, SupportsIndex, TypeAlias

from shapefirst.errors import ShapefirstError

__all__ = ["Branch", "TextSchedule", "Window"]

Branch: TypeAlias = Literal["null", "text"]
Window: TypeAlias = tuple[int, int | None]


@dataclass(frozen=True)
class TextSchedule:
    """The steps that use the text, and the branch that the other steps keep.

    Attributes:
        windows: Half-open ranges (start, stop) of guided steps; a stop of None is the end of the run. They are stored
            in order, without empty or touching ones, so that equal schedules compare equal.
        keep: The one branch that runs outside the windows: "null" (the paper) or "text".
        fraction: If given, the guided steps are the first floor(fraction N + 1/2) of the run's N steps, and `windows`
            must be left alone. It lies in [0, 1].

    Raises:
        ShapefirstError: A bound that is no whole number or is negative, a window that ends before it starts, a
            fraction outside [0, 1], an unknown branch.
    """

    windows: tuple[Window, ...] = ((0, None),)
    keep: Branch = "null"
    fraction: float | None = None

    def __post_init__(self) -> None:
        if self.keep not in ("null", "text"):
            raise ShapefirstError(f'keep must be "null" or "text", not {self.keep!r}.')
        windows = _merged(self.windows)
        if self.fraction is not None:
            object.__setattr__(self, "fraction", _share(self.fraction))
            if windows != ((0, None),):
                raise ShapefirstError("A schedule takes windows of steps or a fraction of the steps, not both.")
        object.__setattr__(self, "windows", windows)

    @classmethod
    def until(
        cls, step: SupportsIndex | None = None, *, fraction: float | None = None, keep: Branch = "null"
    ) -> TextSchedule:
        """Text in the first `step` steps, or in the first `fraction` of them: exactly one of the two is given."""
        if (step is None) == (fraction is None):
            raise ShapefirstError("Give either a step (say, step=25) or a fraction (say, fraction=0.5) of the steps.")
        if step is None:
            return cls(fraction=fraction, keep=keep)
        return cls(windows=((0, _whole(step, "step")),), keep=keep)

    @classmethod
    def starting_at(cls, step: SupportsIndex, *, keep: Branch = "null") -> TextSchedule:
        """Text from `step` to the end."""
        return cls(windows=((_whole(step, "step"), None),), keep=keep)

    @classmethod
    def window(cls, start: SupportsIndex, stop: SupportsIndex | None, *, keep: Branch = "null") -> TextSchedule:
        """Text in the steps start, ..., stop - 1."""
        return cls(windows=((_whole(start, "start"), None if stop is None else _whole(stop, "stop")),), keep=keep)

    @classmethod
    def always(cls) -> TextSchedule:
        """Text in every step: the stock pipeline."""
        return cls()

    @classmethod
    def never(cls, *, keep: Branch = "null") -> TextSchedule:
        """Text in no step."""
        return cls(windows=(), keep=keep)

    def check(self, num_steps: int) -> None:
        """Raise ShapefirstError if a window reaches beyond the run's `num_steps` steps."""
        if num_steps < 1:
            raise ShapefirstError(f"A generation needs at least one step, not {num_steps}.")
        last = max((bound for window in self.windows for bound in window if bound is not None), default=0)
        if last > num_steps:
            raise ShapefirstError(
                f"The text schedule names step {last}, but this generation has {num_steps} steps: "
                f"use a step between 0 and {num_steps}."
            )

    def uses_text(self, step: int, num_steps: int) -> bool:
        """Whether step `step` of `num_steps` is a guided one.

        Raises:
            ShapefirstError: If `step` is not in [0, num_steps), or a window reaches beyond `num_steps`.
        """
        self.check(num_steps)
        if not 0 <= step < num_steps:
            raise ShapefirstError(f"A generation of {num_steps} steps has no step {step}.")
        if self.fraction is not None:
            return step < math.floor(self.fraction * num_steps + 0.5)
        return any(start <= step and (stop is None or step < stop) for start, stop in self.windows)

    def text_steps(self, num_steps: int) -> int:
        """The number of guided steps, in [0, num_steps]."""
        self.check(num_steps)
        return sum(self.uses_text(step, num_steps) for step in range(num_steps))

    def evaluations(self, num_steps: int) -> int:
        """Denoiser evaluations per image, 2 for a guided step and 1 otherwise.

        This holds for solvers that call the denoiser once a step. Heun calls it twice in every step but the last.
        """
        return num_steps + self.text_steps(num_steps)

    def saved(self, num_steps: int) -> float:
        """The share of the evaluations of full guidance that is saved, (N - k) / (2 N)."""
        return 1 - self.evaluations(num_steps) / (2 * num_steps)


def _merged(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    """The same steps as ordered, non-empty, disjoint windows."""
    spans = []
    for window in windows:
        try:
            first, last = window
        except (TypeError, ValueError):
            raise ShapefirstError(f"A window is a pair (start, stop), not {window!r}.") from None
        start = _whole(first, "start")
        stop = math.inf if last is None else _whole(last, "stop")
        if stop < start:
            raise ShapefirstError(f"The window ({first}, {last}) ends before it starts.")
        if stop > start:
            spans.append((start, stop))
    merged: list[tuple[int, float]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple((start, None if stop == math.inf else int(stop)) for start, stop in merged)


def _whole(value: object, name: str) -> int:
    """`value` as a whole number of steps, >= 0."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise ShapefirstError(f"{name} must be a whole number of steps, 0 or more, not {value!r}.")
    return number


def _share(value: object) -> float:
    """`value` as a fraction in [0, 1]."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1 or isinstance(value, bool):  # NaN fails too
        raise ShapefirstError(f"fraction must lie between 0 and 1, not {value!r}.")
    return number
