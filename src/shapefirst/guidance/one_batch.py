"""The way of pipelines that evaluate all branches in one batch, such as 2B rows, null first, and combine its parts:

    eps_hat = eps_null + w (eps_text - eps_null)                                    (Yi et al. 2024, eq. 9)

In a step that is not guided the denoiser runs on fewer rows, or not at all, and the rest is filled in (see
`shapefirst.guidance.follow`). Whatever the pipeline does with the parts besides, it does with what was filled in:
guidance rescale takes the standard deviation of the extrapolated text prediction, and learned sigmas are extrapolated,
too.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.families import Family
from shapefirst.guidance.branches import evaluating, evaluating_some
from shapefirst.guidance.conditions import Conditions
from shapefirst.guidance.follow import Call, Follower, Wanted
from shapefirst.guidance.further import FurtherCalls
from shapefirst.guidance.outputs import Packing
from shapefirst.guidance.rows import Taking
from shapefirst.guidance.ways import Asked, Evaluate
from shapefirst.policies.auto import Auto, Policy

__all__ = ["OneBatch"]


@dataclass(frozen=True)
class _Some:
    """Some of the rows of a call that are to run, and who makes up for the others."""

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

    def says(self) -> AbstractContextManager[None]:
        """Tells whoever listens inside of the denoiser which branches run."""
        ran = [branch for branch in self.follower.branches if self.wanted[branch]]
        even = len({tuple(self.wanted[branch]) for branch in ran}) == 1
        return evaluating(*ran) if even else evaluating_some()

    def complete(self, out: torch.Tensor | None, latents: Any) -> dict[str, torch.Tensor]:
        """The output of the rows that ran, (rows, ...), or None if none did -> of all images, a branch."""
        branches = self.follower.branches
        parts = () if out is None else out.split([len(self.wanted[branch]) for branch in branches])
        seen = {branch: part for branch, part in zip(branches, parts, strict=False) if len(part)}
        of_images = latents[: self.follower.images] if isinstance(latents, torch.Tensor) else None
        return self.follower.complete(self.call, seen, of_images)


class OneBatch:
    """Answers the calls of one generation under one policy. See the module.

    Args:
        policy: The policy.
        family: The pipeline's.
        late: The generation's first steps were not guided.
        stochastic: The sampler adds noise.
    """

    def __init__(self, policy: Policy, family: Family, *, late: bool, stochastic: bool) -> None:
        self._policy, self._family, self._branches = policy, family, family.branches
        self._late, self._stochastic = late, stochastic
        self._follower: Follower | None = None
        self._conditions: dict[object, Conditions] = {}
        self._packing: Packing | None = None
        self._base: torch.Tensor | None = None  # what the latest call gave for the branch that others are held against
        self._fed: tuple[Call, list[int]] | None = None  # what a ControlNet fed, and in which call

    def rows(self, call: Call, asked: Asked, asking: object) -> list[int]:
        some = self._some(call, asked, asking)
        self._fed = call, some.rows
        return some.rows

    def answer(self, call: Call, asked: Asked, evaluate: Evaluate) -> Any:
        if asked.place:
            assert self._packing is not None
            return self._further.answer(call, asked, evaluate, self._base, self._packing)
        some, of = self._some(call, asked, self), asked.rows
        rows = some.rows
        if self._fed is not None and self._fed[0] == call and self._fed[1] != rows:
            raise ShapefirstError(
                f"What the denoiser is given changed in step {call.step}, in which its ControlNet had not run for "
                "every row: change it with a policy that keeps a branch and extrapolates nothing."
            )
        out, packed = None, None
        if rows:
            with some.says() if len(rows) < of else nullcontext():
                out = evaluate(asked.some(Taking(rows, of, family=self._family)), len(rows))
            self._packing = Packing(out, len(rows))
            packed = self._packing.pack(out)
        whole = some.complete(packed, asked.batch)
        self._base = whole[some.follower.kept[0]] if some.follower.kept else None
        if len(rows) == of:
            return out
        assert self._packing is not None
        return self._packing.unpack(torch.cat([whole[branch] for branch in self._branches]))

    def _some(self, call: Call, asked: Asked, asking: object) -> _Some:
        images, rest = divmod(asked.rows, len(self._branches))
        if rest:
            raise UnsupportedPipelineError(
                f"The denoiser is given a batch of {asked.rows} rows, which are not those of {len(self._branches)} "
                "branches: take a policy that keeps neither branch, such as budget=0.6."
            )
        if asking not in self._conditions and (self._policy.keep != "neither" or isinstance(self._policy, Auto)):
            # What cannot be cut is refused before anything runs.
            asked.some(Taking([0], len(asked.arguments[asked.latents]), family=self._family))
        conditions = self._conditions.setdefault(asking, Conditions())
        changed = self._policy.order is not None and conditions.change(asked.arguments, asked.latents, asked.scale)
        if changed or self._follower is None or self._follower.images != images:
            self._follower = Follower(
                self._policy,
                images,
                self._branches,
                without_text=self._family.without_text,
                late=changed or self._late,
                stochastic=self._stochastic,
            )
            base = self._follower.kept[:1]
            self._further = FurtherCalls(self._policy, self._family, base, by_image=True)
        return _Some(self._follower, call, self._follower.wanted(call))
