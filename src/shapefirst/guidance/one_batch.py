"""The way of pipelines that evaluate both branches in one batch of 2B rows, null first, and combine the halves:

    eps_hat = eps_null + w (eps_text - eps_null)                                    (Yi et al. 2024, eq. 9)

In a step that is not guided the hook below runs the denoiser on fewer rows, or not at all, and fills in the rest (see
`shapefirst.guidance.follow`). Whatever the pipeline does with the two halves besides, it does with what was filled in:
guidance rescale takes the standard deviation of the extrapolated text prediction, and learned sigmas are extrapolated,
too. What runs only to feed the denoiser (a ControlNet) runs on the rows that the denoiser will.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers.utils import BaseOutput

from shapefirst.errors import ShapefirstError
from shapefirst.families.layout import check_layout, denoiser_of
from shapefirst.guidance.branches import evaluating, evaluating_some, halves_agree, says_guided
from shapefirst.guidance.conditions import Conditions
from shapefirst.guidance.follow import Call, Follower, Wanted
from shapefirst.guidance.hook import DenoiserHook, check_unreplaced
from shapefirst.guidance.introspection import Running, running
from shapefirst.guidance.rows import Taking, each_tensor, spread_rows
from shapefirst.guidance.timeline import Generation, follow
from shapefirst.policies.auto import Auto, Policy, check_policy
from shapefirst.policies.schedule import TextSchedule

__all__ = ["Block", "ControlHook", "Evaluations", "OneBatchHook"]


@dataclass
class Evaluations:
    """What the denoiser has really done since the block was entered.

    Attributes:
        rows: Rows evaluated, over all calls: with B images, 2B for a guided step.
        calls: Calls of the denoiser, those that evaluated nothing left out.
        asked: Rows that the pipeline asked for: what full guidance would have evaluated.
        control_rows: Rows evaluated by a ControlNet.
    """

    rows: int = 0
    calls: int = 0
    asked: int = 0
    control_rows: int = 0

    @property
    def saved(self) -> float:
        """The share of the rows that were asked for and not evaluated."""
        return 1 - self.rows / self.asked if self.asked else 0.0


@dataclass(frozen=True, eq=False)
class Block:
    """What a `with` block wants, and what was done in it."""

    policy: Policy
    evaluations: Evaluations


@dataclass(frozen=True)
class _Some:
    """Some of the 2B rows of a call that are to run, and who makes up for the others."""

    follower: Follower
    call: Call
    wanted: Wanted

    @property
    def rows(self) -> list[int]:
        """The rows that run."""
        return [
            place * self.follower.images + image
            for place, branch in enumerate(self.follower.branches)
            for image in self.wanted[branch]
        ]

    @property
    def is_whole(self) -> bool:
        return all(len(images) == self.follower.images for images in self.wanted.values())

    def says(self) -> AbstractContextManager[None]:
        """Tells whoever listens inside of the denoiser which branches run."""
        if self.is_whole:
            return nullcontext()
        ran = [branch for branch in self.follower.branches if self.wanted[branch]]
        even = len({tuple(self.wanted[branch]) for branch in ran}) == 1
        return evaluating(*ran) if even else evaluating_some()

    def complete(self, out: torch.Tensor | None) -> torch.Tensor:
        """The output of the rows that ran, (rows, ...), or None if none did -> of all, (2B, ...)."""
        branches = self.follower.branches
        parts = () if out is None else out.split([len(self.wanted[branch]) for branch in branches])
        seen = {branch: part for branch, part in zip(branches, parts, strict=False) if len(part)}
        whole = self.follower.complete(self.call, seen)
        return out if self.is_whole and out is not None else torch.cat([whole[branch] for branch in branches])


@dataclass(eq=False)
class _Course:
    """How one generation goes under one block."""

    follower: Follower | None = None
    conditions: dict[DenoiserHook, Conditions] = field(default_factory=dict)


class OneBatchHook(DenoiserHook):
    """Stands between a pipeline and its denoiser, and runs the rows that the policy asks for."""

    name = "shapefirst.guidance.one_batch"
    busy = "denoiser is being guided"

    def __init__(self, pipe: Any, denoiser: Any) -> None:
        super().__init__(pipe, denoiser)
        self._family, self._checked = check_layout(type(pipe)), type(pipe)
        self._runs: list[Generation] = []
        self._checked_run: Generation | None = None
        self._courses: WeakKeyDictionary[Generation, dict[Block, _Course]] = WeakKeyDictionary()
        self._guided = False
        self._guided_for: tuple[Generation | None, int] = None, 0  # the run and the rows for which that was found out
        self._fed: tuple[Generation | None, int, list[int]] = None, 0, []  # the latest call that a ControlNet fed
        self._wrap: Callable[[torch.Tensor], Any] = _as_tuple  # a tensor -> the denoiser's kind of output

    # A compiled denoiser stays compiled; the bookkeeping around it, which changes with every call, is not traced.
    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        latents = self.latents(args, kwargs)
        some = self.decide(self, self.arguments(args, kwargs), latents)
        rows = range(len(latents)) if some is None or some.is_whole else some.rows

        # With one image the fixed cost is most of a call; inference mode takes part of it away, where the caller
        # records no gradients anyway. What leaves it is a copy, and so an ordinary tensor again.
        quick = not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        with nullcontext() if some is None else some.says(), torch.inference_mode() if quick else nullcontext():
            prediction = None
            if rows:
                if len(rows) < len(latents):
                    args, kwargs = self.taken(args, kwargs, Taking(rows, len(latents)))
                prediction = forward(*args, **kwargs)
            if some is not None:
                prediction = self._complete(some, prediction)
        if quick:
            prediction = each_tensor(prediction, torch.clone)

        for block in self.blocks:
            block.evaluations.rows += len(rows)
            block.evaluations.calls += bool(rows)
            block.evaluations.asked += len(latents)
        return prediction

    @torch.compiler.disable
    def decide(self, asking: DenoiserHook, arguments: dict[str, Any], latents: torch.Tensor) -> _Some | None:
        """Which rows run in this call of the denoiser, or of what feeds it; None where the batch is to run as it is.

        Args:
            asking: Whose hook asks.
            arguments: Those of the module that it stands before.
            latents: (2B, ...), the denoiser's.
        """
        block, caller = self.blocks[-1], running(self.denoiser)
        policy: Policy = block.policy
        pipe = self.pipe if caller is None else caller.pipe
        if type(pipe) is not self._checked:
            self._family, self._checked = check_layout(type(pipe)), type(pipe)
        run = follow(self._runs, arguments["timestep"], self.pipe, caller)
        if run is not self._checked_run:
            check_unreplaced(self.denoiser)
            self._checked_run = run
        check_policy(policy, run.num_steps)
        if policy == TextSchedule.always() or not self._is_guided(run, caller, latents):
            return None
        course = self._courses.setdefault(run, {}).setdefault(block, _Course())
        if asking not in course.conditions:
            # What cannot be cut is refused before anything runs.
            asking.taken((), arguments, Taking([0], len(asking.latents((), arguments))))
        scale = self._scale(policy, caller)
        conditions = course.conditions.setdefault(asking, Conditions())
        changed = policy.order is not None and conditions.change(arguments, asking.latents_name, scale)
        branches = self._family.branches
        if changed or course.follower is None or len(branches) * course.follower.images != len(latents):
            course.follower = Follower(policy, len(latents) // len(branches), branches, late=changed)
        call = run.call(1.0 if scale is None else scale, levelled=policy.order is not None)
        some = _Some(course.follower, call, course.follower.wanted(call))
        if asking is not self:
            self._fed = run, run.last, some.rows
        elif self._fed[:2] == (run, run.last) and self._fed[2] != some.rows:
            raise ShapefirstError(
                f"What {type(pipe).__name__} gives its denoiser changed in step {call.step}, in which its ControlNet "
                "had not run for every row: change it with a policy that keeps a branch and extrapolates nothing."
            )
        return some

    def _scale(self, policy: Policy, caller: Running | None) -> float | None:
        if caller is None and isinstance(policy, Auto):
            raise ShapefirstError(
                f"A tolerance needs the guidance scale, which only a call of the {type(self.pipe).__name__} itself "
                "tells: use a TextSchedule with a loop of your own."
            )
        return None if caller is None else caller.guidance_scale

    @torch.compiler.disable
    def _complete(self, some: _Some, prediction: Any) -> Any:
        """The denoiser's output for all rows, from that of the rows that ran."""
        if prediction is None:
            return self._wrap(some.complete(None))
        if isinstance(prediction, BaseOutput):
            kind, (first, *_) = type(prediction), prediction
            self._wrap = lambda out: kind(**{first: out})
        else:
            self._wrap = _as_tuple
        out = some.complete(prediction[0])
        return prediction if some.is_whole else self._wrap(out)

    @torch.compiler.disable
    def _is_guided(self, run: Generation, caller: Running | None, latents: torch.Tensor) -> bool:
        """Whether the batch holds a null and a text half. Found out once a generation, when it first matters."""
        if self._guided_for != (run, len(latents)):
            # Two images of one seed have equal rows without guidance, too: what the pipeline says goes first.
            said = says_guided(caller, latents)
            self._guided = halves_agree(latents) if said is None else said
            self._guided_for = run, len(latents)
        return self._guided


class ControlHook(DenoiserHook):
    """Stands before a ControlNet, and runs it on the rows that its denoiser is about to run.

    Rows that do not run are zeros, which nobody looks at.
    """

    name = "shapefirst.guidance.control"
    busy = "ControlNet is being guided"

    def __init__(self, pipe: Any, module: Any) -> None:
        super().__init__(pipe, module)
        self._feeds = denoiser_of(pipe)
        self._like: Any = None  # the latest output of all rows, as zeros that take no memory
        self._like_of: torch.Size | None = None  # and the latents that it was of

    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        latents = self.latents(args, kwargs)
        rows, of = self._rows(self.arguments(args, kwargs), latents), len(latents)
        for block in self.blocks:
            block.evaluations.control_rows += len(rows)
        if not rows:
            return self._like
        if len(rows) < of:
            args, kwargs = self.taken(args, kwargs, Taking(rows, of))
        out = forward(*args, **kwargs)
        whole = out if len(rows) == of else each_tensor(out, lambda x: spread_rows(x, rows, of))
        self._like, self._like_of = each_tensor(whole, lambda x: x.new_zeros(()).expand(x.shape)), latents.shape
        return whole

    @torch.compiler.disable
    def _rows(self, arguments: dict[str, Any], latents: torch.Tensor) -> Sequence[int]:
        """Those of its own batch that the denoiser will look at: the 2B, or in guess mode those of the text alone."""
        steering, caller = OneBatchHook.on(self._feeds), running(self._feeds)
        if (
            caller is None and running(self.denoiser, check_layout(type(self.pipe)).beside) is not None
        ):  # it feeds another denoiser
            return range(len(latents))
        guesses = caller is not None and caller.is_guided and caller.names.get("guess_mode", False)
        some = steering and steering.decide(self, arguments, torch.cat([latents] * 2) if guesses else latents)
        rows = range(len(latents)) if some is None else some.wanted["text"] if guesses else some.rows
        return rows if rows or self._like_of == latents.shape else range(len(latents))


def _as_tuple(out: torch.Tensor) -> tuple[torch.Tensor]:
    return (out,)
