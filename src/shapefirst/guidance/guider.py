"""A policy as the guider of Modular Diffusers:

    pipe.update_components(guider=Guider(budget=0.6, guidance_scale=5.0))
    images = pipe(prompt=prompt, num_inference_steps=50, output="images")

A modular pipeline asks its guider in each step which conditions to evaluate, calls the denoiser once for each, and is
given the prediction back. So nothing is put on the pipeline: in a step that needs no branch the denoiser is not called,
nor what its block runs to feed it. What runs in a block of its own (Qwen-Image's ControlNet) runs in every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance

from shapefirst.errors import ShapefirstError
from shapefirst.families.noise import levels
from shapefirst.guidance.conditions import Conditions
from shapefirst.guidance.counting import Evaluations, warn_unguided
from shapefirst.guidance.follow import Call, Follower
from shapefirst.guidance.introspection import callers, looped_in, place_in_memory
from shapefirst.guidance.steering import SteeringHook
from shapefirst.guidance.stochastic import is_stochastic
from shapefirst.guidance.timeline import by_step, steps_of
from shapefirst.policies.auto import Policy, check_policy, warn_of_small_budget
from shapefirst.policies.correction import follow_corrections
from shapefirst.policies.file import PolicyFile
from shapefirst.policies.schedule import Branch, TextSchedule
from shapefirst.policies.words import find_policy, policy_of

__all__ = ["Guider"]

#: Branch -> what diffusers calls its prediction, in the order of the conditions.
PREDICTIONS: Final[dict[Branch, str]] = {"text": "pred_cond", "null": "pred_uncond"}
_LATENTS: Final = ("hidden_states", "latents")  # which some blocks hand over with the conditions


class Guider(BaseGuidance):
    """Classifier-free guidance in the steps that a policy says; see `shapefirst.guide` for policies.

    Full guidance is diffusers' `ClassifierFreeGuidance`, bit for bit; only that guides no more than the first half of
    the calls with a solver that makes two a step, and this all. The images of a batch go together: with a tolerance,
    the error is the root mean square over all of them. Without guidance (disabled, or a scale of 1) there is one
    branch: policies that keep neither extrapolate it, and the others change nothing, which a warning says.

    Each generation starts afresh, and so do conditions or a scale that change half-way. Steps and noise levels are
    those of the scheduler and the timesteps of the modular pipeline whose block asks. In a loop of your own each call
    is a step, and timesteps are taken for noise levels. With a sampler that adds noise the last predictions are held,
    whatever the policy's order. Where two guiders take turns (Wan 2.2), each counts the steps of the whole generation,
    and guides from its first one on until it has as much as it extrapolates from.

    Args:
        policy: Words such as "paper:25" or "steps:5-19,keep=null,order=none", see `shapefirst.policies.words`.
        budget: In their place, see `shapefirst.guide`.
        tol: In their place.
        guidance_scale: w, as `ClassifierFreeGuidance` has it, and so the others.
        guidance_rescale: How far the prediction takes the text branch's standard deviation.
        use_original_formulation: Whether w counts from the text branch, and so is less by 1.
        enabled: Whether there is guidance.

    Attributes:
        evaluations: What the denoiser has done for this guider so far; a row is one image in one branch.

    Raises:
        ShapefirstError: Not exactly one of policy, budget and tol, or one that is no policy in words; in the first step
            of a generation, a policy that does not fit its steps, or a `guide` block around it.
    """

    _input_predictions = list(PREDICTIONS.values())  # noqa: RUF012  diffusers checks that it is a list
    forward = ClassifierFreeGuidance.forward

    @register_to_config
    def __init__(
        self,
        policy: str | None = None,
        *,
        budget: float | str | None = None,
        tol: float | None = None,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        use_original_formulation: bool = False,
        enabled: bool = True,
    ) -> None:
        if policy is not None and not isinstance(policy, str):
            raise ShapefirstError(
                'A guider is saved with its policy in words, and takes it so: say "paper:25" or '
                f'"steps:5-19,keep=null,order=none", not a {type(policy).__name__}.'
            )
        if policy is not None and isinstance(find_policy(policy), PolicyFile):
            raise ShapefirstError(
                f"The policy {policy!r} was tuned on one model, and a guider does not know which it guides: say its "
                "steps, such as steps:0-4+7+11."
            )
        self.policy: Policy = policy_of(None, policy, budget=budget, tol=tol)
        super().__init__(enabled=enabled)
        self.guidance_scale = guidance_scale
        self.guidance_rescale = guidance_rescale
        self.use_original_formulation = use_original_formulation
        self.evaluations = Evaluations()
        self._run: _Run | None = None
        self._has_warned = False

    @property
    def num_conditions(self) -> int:
        """The branches of full guidance, whatever this step runs: pipelines encode their prompts by it."""
        return 1 + self._is_cfg_enabled()

    @property
    def is_conditional(self) -> bool:
        """Whether the branch that runs is the text's."""
        ran = () if self._run is None else self._run.branches
        return ran[max(self._count_prepared - 1, 0) : self._count_prepared] == ("text",)

    def set_state(self, step: int, num_inference_steps: int, timestep: torch.Tensor) -> None:
        """Begin a call of the denoiser: the `step`-th of the loop, from 0, at `timestep`."""
        super().set_state(step, num_inference_steps, timestep)
        loop, run, extrapolates = _loop_around(self), self._run, self.policy.order is not None
        if run is None or not run.goes_on(step, num_inference_steps, loop):
            if extrapolates and loop is not None and loop.guides > 1:
                raise ShapefirstError(
                    "One guider stands for two denoisers, of which one tells nothing about the other: give each a "
                    "Guider of its own, or a policy without an order."
                )
            self._run = run = _Run(self.policy, num_inference_steps, loop, late=step > 0)
        run.step = step
        run.call = run.called(timestep, self.guidance_scale + self.use_original_formulation, extrapolates)
        check_policy(run.policy, run.call.num_steps)

    def prepare_inputs(self, data: dict[str, Any]) -> list[Any]:
        return [self._prepare_batch(data, *which) for which in self._wanted(data)]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        names = {name: (value,) if isinstance(value, str) else value for name, value in input_fields.items()}
        given = {name: tuple(getattr(data, value, None) for value in values) for name, values in names.items()}
        return [self._prepare_batch_from_block_state(input_fields, data, *which) for which in self._wanted(given)]

    def __call__(self, data: list[Any]) -> Any:
        run = self._run
        assert run is not None, "set_state() comes first"
        assert run.follower is not None, "prepare_inputs() comes first"
        called = {getattr(batch, self._identifier_key): batch.noise_pred for batch in data}
        seen = {branch: called[PREDICTIONS[branch]].unsqueeze(0) for branch in run.branches}
        whole = {PREDICTIONS[b]: y.squeeze(0) for b, y in run.follower.complete(run.call, seen).items()}
        out = self.forward(**whole)
        self.evaluations.rows += len(out.pred) * len(data)
        self.evaluations.calls += len(data)
        self.evaluations.asked += len(out.pred) * len(whole)
        self.evaluations.asked_calls += len(whole)
        return out

    def _is_cfg_enabled(self) -> bool:
        return self._enabled and not math.isclose(self.guidance_scale, 0.0 if self.use_original_formulation else 1.0)

    def _wanted(self, conditions: Mapping[str, Any]) -> list[tuple[int, str]]:
        """What is to be evaluated now: places among the conditions, and the names of their predictions."""
        run = self._run
        if run is None:
            raise ShapefirstError("A guider cannot say what to evaluate before it is told the step: call set_state().")
        branches = tuple(PREDICTIONS)[: self.num_conditions]
        lasting = {name: value for name, value in conditions.items() if name not in _LATENTS}
        changed = run.conditions.change({**lasting, "": torch.empty(0)}, "", run.call.guidance_scale)
        if run.follower is None or changed or run.follower.branches != branches:
            policy = run.policy
            if "null" not in branches and policy.keep != "neither" and policy != TextSchedule.always():
                policy = TextSchedule.always()
                if not self._has_warned:
                    self._has_warned = True
                    warn_unguided("a guider")
            if policy.order and run.loop is not None and is_stochastic(run.loop.scheduler, policy):
                policy = replace(policy, order=0)
            elif run.follower is None and run.loop is not None:
                warn_of_small_budget(policy, run.loop.scheduler, run.call.num_steps)
            run.follower = Follower(policy, 1, branches, late=run.late or run.follower is not None)
        if run.loop is not None:
            follow_corrections(run.follower.policy, run.call.step, run.call.num_steps, run.loop.scheduler)
        wanted = run.follower.wanted(run.call)
        run.branches = tuple(branch for branch in branches if wanted[branch])
        return [(place, name) for place, (branch, name) in enumerate(PREDICTIONS.items()) if branch in run.branches]


@dataclass(frozen=True, eq=False)
class _Loop:
    """The loop of a modular pipeline: its timesteps, their scheduler, and how many of its guiders are the one asked."""

    timesteps: torch.Tensor
    scheduler: Any
    guides: int


@dataclass(eq=False)
class _Run:
    """One generation: the call that it is at, and the branches that are evaluated in it."""

    asked: Policy
    num_inference_steps: int
    loop: _Loop | None
    late: bool
    step: int = -1
    call: Call = field(init=False)
    branches: tuple[Branch, ...] = ()
    follower: Follower | None = None
    conditions: Conditions = field(default_factory=Conditions)

    @cached_property
    def policy(self) -> Policy:
        """What was asked for, as it holds in this run."""
        loop, levels = self.loop, self._levels
        if loop is None or levels is None:
            return self.asked.in_run(None, [1] * self.num_inference_steps)
        return self.asked.in_run(loop.scheduler, *by_step(zip(self._steps, levels, strict=True)))

    @cached_property
    def _steps(self) -> list[int]:
        """The step of each call."""
        n = self.num_inference_steps
        return list(range(n)) if self.loop is None else steps_of(self.loop.scheduler, len(self.loop.timesteps))

    @cached_property
    def _levels(self) -> list[float] | None:
        """u_t of each call, if the loop is known."""
        if self.loop is None:
            return None
        return levels(self.loop.scheduler, self.loop.timesteps.tolist())

    def goes_on(self, step: int, num_inference_steps: int, loop: _Loop | None) -> bool:
        """Whether a call belongs to this generation."""
        before, now = (None if at is None else at.timesteps for at in (self.loop, loop))
        return step > self.step and num_inference_steps == self.num_inference_steps and before is now

    def called(self, timestep: Any, guidance_scale: float, levelled: bool) -> Call:
        """The call at `step`."""
        steps, at = self._steps, self.step
        if at >= len(steps):
            raise ShapefirstError(f"A generation of {len(steps)} calls of the denoiser has no call {at}, from 0.")
        u = 0.0 if not levelled else float(timestep) / 1000 if self._levels is None else self._levels[at]
        return Call(steps[at], steps[-1] + 1, at == 0 or steps[at - 1] < steps[at], u, guidance_scale)


def _loop_around(guider: Guider) -> _Loop | None:
    """The loop that asks the guider, found among the local variables of a modular pipeline's block on the stack.

    diffusers tells guiders neither the list that a timestep is from nor the scheduler, which alone know how often the
    solver calls the denoiser in a step and how much noise there is.
    """
    for frame in callers():
        names = frame.f_locals
        parts = getattr(names.get("components"), "components", {})
        guides = sum(part is guider for part in parts.values())
        if guides and "scheduler" in parts:
            if any(isinstance(part, torch.nn.Module) and SteeringHook.on(part) for part in parts.values()):
                raise ShapefirstError(
                    f"This {type(names['components']).__name__} is in a guide() block, and its Guider follows a policy "
                    "of its own: take one of the two."
                )
            timesteps = looped_in(names)
            if isinstance(timesteps, torch.Tensor) and place_in_memory(guider._timestep, timesteps) == guider._step:
                return _Loop(timesteps, parts["scheduler"], guides)
            return None
    return None
