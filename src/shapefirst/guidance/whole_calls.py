"""The way of any pipeline: a call of the denoiser is evaluated as it is, or all that it would give is extrapolated.

Nothing needs to be known but the step. Where the denoiser is called several times in a step (a call a branch, a third
one with layers skipped), each has a memory of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from shapefirst.errors import ShapefirstError
from shapefirst.guidance.conditions import Conditions
from shapefirst.guidance.follow import Call, Follower
from shapefirst.guidance.outputs import Packing
from shapefirst.guidance.ways import Asked, Evaluate
from shapefirst.policies.auto import Policy

__all__ = ["WholeCalls"]


@dataclass
class _Slot:
    """One of the calls of each step."""

    conditions: Conditions = field(default_factory=Conditions)
    follower: Follower | None = None
    packing: Packing | None = None


class WholeCalls:
    """See the module. A policy with a tolerance decides for all images of a call at once."""

    def __init__(self, policy: Policy, *, stochastic: bool) -> None:
        self._policy, self._stochastic = policy, stochastic
        self._slots: dict[int, _Slot] = {}
        self._conditions: dict[object, Conditions] = {}  # of what feeds the denoiser
        self._unfed: Call | None = None  # the latest call that was not fed

    def rows(self, call: Call, asked: Asked, asking: object) -> Sequence[int]:
        slots = [slot.follower for slot in self._slots.values() if slot.follower is not None]
        changed = self._conditions.setdefault(asking, Conditions()).change(asked.arguments, asked.latents, asked.scale)
        runs = changed or not slots or any(follower.wanted(call)["text"] for follower in slots)
        if not runs:
            self._unfed = call
        return range(asked.rows if runs else 0)

    def answer(self, call: Call, asked: Asked, evaluate: Evaluate) -> Any:
        slot = self._slots.setdefault(asked.place, _Slot())
        changed = slot.conditions.change(asked.arguments, asked.latents, asked.scale)
        if changed or slot.follower is None:
            late, stochastic = changed or call.step > 0, self._stochastic
            slot.follower = Follower(self._policy, 1, ("text",), late=late, stochastic=stochastic)
        latents = asked.batch[None] if isinstance(asked.batch, torch.Tensor) else None
        if slot.follower.wanted(call)["text"]:
            if call == self._unfed:
                raise ShapefirstError(
                    f"What the denoiser is given changed in step {call.step}, in which its ControlNet had not run: "
                    "change it in a step that the policy evaluates."
                )
            out = evaluate(asked.arguments, asked.rows)
            slot.packing = Packing(out, None)
            slot.follower.complete(call, {"text": slot.packing.pack(out)}, latents)
            return out
        assert slot.packing is not None
        return slot.packing.unpack(slot.follower.complete(call, {}, latents)["text"])
