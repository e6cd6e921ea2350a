"""Calls of a step beyond those of its branches, such as the text branch again with layers left out.

What such a call gives differs from the branch that stands for what is dropped by something that is extrapolated, where
the policy extrapolates; else by nothing in a step that is not guided, so that its guidance vanishes with the text's.
"""

from __future__ import annotations

from typing import Any

import torch

from shapefirst.families import Family
from shapefirst.guidance.follow import Call, Follower
from shapefirst.guidance.outputs import Packing
from shapefirst.guidance.rows import Taking
from shapefirst.guidance.ways import Asked, Evaluate
from shapefirst.policies.auto import Policy

__all__ = ["FurtherCalls"]


class FurtherCalls:
    """Those of one generation under one policy.

    Args:
        policy: The policy.
        family: The pipeline's.
        base: The branch that stands for what is dropped; none where neither is kept.
        by_image: Whether some images alone can be evaluated.
    """

    def __init__(self, policy: Policy, family: Family, base: tuple[str, ...], *, by_image: bool) -> None:
        self._policy, self._family, self._base, self._by_image = policy, family, base, by_image
        self._followers: dict[int, Follower] = {}
        self._packings: dict[int, Packing] = {}

    def answer(self, call: Call, asked: Asked, evaluate: Evaluate, base: torch.Tensor | None, packing: Packing) -> Any:
        """A further call's output.

        Args:
            call: The step.
            asked: The call.
            evaluate: The denoiser.
            base: (images, ...), what the branch gave in this step.
            packing: How outputs are laid out that no further call has given yet.
        """
        images = asked.rows if self._by_image else 1
        follower = self._followers.get(asked.place)
        if follower is None or follower.images != images:
            branches, late = (*self._base, "further"), call.step > 0
            follower = Follower(self._policy, images, branches, without_text=self._base, late=late)
            self._followers[asked.place] = follower
        wanted = follower.wanted(call)["further"]
        seen = {} if base is None else dict.fromkeys(self._base, base)
        if wanted:
            rows = wanted if self._by_image else range(asked.rows)
            out = evaluate(asked.some(Taking(rows, asked.rows, family=self._family)), len(rows))
            self._packings[asked.place] = packing = Packing(out, len(rows) if self._by_image else None)
            seen["further"] = packing.pack(out)
        packing = self._packings.get(asked.place, packing)
        return packing.unpack(follower.complete(call, seen)["further"])
