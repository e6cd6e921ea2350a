"""The way of pipelines that call the denoiser once a branch, such as the text and then the null one.

In a step that is not guided one evaluation answers both calls. The call that comes first may be that of the branch that
is dropped: then the latents are evaluated under what the kept branch was given in an earlier guided step. Norm-rescaled
guidance stays right, since the pipeline gets all predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.families import Family
from shapefirst.guidance.conditions import Conditions, are_same
from shapefirst.guidance.follow import Call, Follower
from shapefirst.guidance.further import FurtherCalls
from shapefirst.guidance.outputs import Packing
from shapefirst.guidance.rows import each_tensor
from shapefirst.guidance.ways import Asked, Evaluate
from shapefirst.policies.auto import Policy

__all__ = ["TwoCalls"]

#: What pipelines call their calls -> the branch.
CONTEXTS: Final = {"cond": "text", "uncond": "null", "pred_cond": "text", "pred_uncond": "null"}


class TwoCalls:
    """See the module. A policy with a tolerance decides for all images of a call at once.

    Args:
        policy: A policy that keeps a branch.
        family: The pipeline's.
        known: What each branch was given in the generation's latest guided step, as far as that differs from the
            others; shared by all denoisers of a pipeline.
        warn: Says that there is nothing to drop, where the pipeline calls its denoiser for one branch alone.
    """

    def __init__(
        self, policy: Policy, family: Family, known: dict[str, dict[str, Any]], warn: Callable[[], None]
    ) -> None:
        self._policy, self._family, self._known, self._warn = policy, family, known, warn
        self._kept = "text" if policy.keep == "text" else family.without_text[0]
        self._further = FurtherCalls(policy, family, (self._kept,), by_image=False)
        self._conditions: dict[str, Conditions] = {}
        self._follower: Follower | None = None
        self._packing: Packing | None = None
        self._call: Call | None = None
        self._asked: set[str] = set()  # the branches that the pipeline has asked for in this step
        self._is_alone = False  # whether it asks for one of them only
        self._given: dict[str, dict[str, Any]] = {}  # in a guided step: to each branch so far
        self._seen: dict[str, torch.Tensor] = {}  # and what each gave
        self._answers: dict[str, torch.Tensor] = {}  # in any other step: what stands for all

    def rows(self, call: Call, asked: Asked, asking: object) -> Sequence[int]:
        return range(asked.rows)  # a branch is kept in every step

    def answer(self, call: Call, asked: Asked, evaluate: Evaluate) -> Any:
        branch = self._branch(asked)
        if branch is None:
            assert self._packing is not None
            base = self._seen if self._seen else self._answers
            return self._further.answer(call, asked, evaluate, base.get(self._kept), self._packing)
        conditions = self._conditions.setdefault(branch, Conditions())
        changed = conditions.change(asked.arguments, asked.latents, asked.scale)
        if call != self._call:
            if len(self._asked) == 1:  # the pipeline itself did not guide that step
                self._follower = None if self._seen else self._follower
                self._is_alone = not self._known
                self._warn()
            self._call, self._asked, self._given, self._seen, self._answers = call, set(), {}, {}, {}
        self._asked.add(branch)
        if self._follower is None or (changed and self._policy.order is not None):
            self._follower = self._new_follower(late=changed or call.step > 0)
        if all(self._follower.wanted(call).values()) or self._is_alone:
            return self._guided(call, branch, asked, evaluate)
        if changed and branch == self._kept and self._answers:
            raise ShapefirstError(
                f"The {branch} branch is given something else in step {call.step} than before, after its "
                "prediction was used there: change it in a guided step."
            )
        if not self._answers:
            given = asked.arguments if branch == self._kept else self._as_kept(asked)
            out = evaluate(given, asked.rows)
            self._packing = Packing(out, None)
            self._answers = self._follower.complete(call, {self._kept: self._packing.pack(out)})
        assert self._packing is not None
        return self._packing.unpack(self._answers[branch].clone())  # the pipeline may write to one of them

    def _new_follower(self, *, late: bool) -> Follower:
        return Follower(self._policy, 1, self._family.branches, without_text=(self._kept,), late=late)

    def _branch(self, asked: Asked) -> str | None:
        if asked.context in CONTEXTS:
            return CONTEXTS[asked.context]
        return self._family.branches[asked.place] if asked.place < len(self._family.branches) else None

    def _guided(self, call: Call, branch: str, asked: Asked, evaluate: Evaluate) -> Any:
        # The pipeline may put the next branch's conditions into the same dictionary.
        self._given[branch] = {name: each_tensor(value, lambda x: x) for name, value in asked.arguments.items()}
        out = evaluate(asked.arguments, asked.rows)
        self._packing = Packing(out, None)
        self._seen[branch] = self._packing.pack(out).clone()
        if len(self._seen) == len(self._family.branches):
            assert self._follower is not None
            self._follower.learn(call, self._seen)
            given = self._given
            names = {n for args in given.values() for n in args if self._differs(n, given)}
            if asked.latents in names:
                raise UnsupportedPipelineError(
                    "The branches are given latents of their own, so one's prediction cannot stand for another's: take "
                    "a policy that keeps neither branch, such as budget=0.6."
                )
            self._known.update({b: {name: args.get(name) for name in names} for b, args in given.items()})
        return out

    @staticmethod
    def _differs(name: str, given: dict[str, dict[str, Any]]) -> bool:
        first, *others = (args.get(name) for args in given.values())
        return not all(are_same(first, other) for other in others)

    def _as_kept(self, asked: Asked) -> dict[str, Any]:
        """The call's arguments with the kept branch's conditions in them."""
        if self._kept not in self._known:
            raise ShapefirstError(
                f"The {self._kept} branch is called after the other one, and what it is given is known from a guided "
                "step only: guide the first one, as text_until(pipe, step=1) does, with guidance on."
            )
        return {**asked.arguments, **self._known[self._kept]}
