"""The hook that carries a policy out: it finds out where a generation is, how the pipeline is met, and who answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

import torch
from diffusers.utils.torch_utils import unwrap_module

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.families import Family, OwnLoop, family_of, name_of
from shapefirst.families.arguments import TIMES
from shapefirst.families.layout import denoisers_of
from shapefirst.guidance.branches import parts_agree, says_guided
from shapefirst.guidance.counting import Block
from shapefirst.guidance.follow import Call
from shapefirst.guidance.hook import Forward, ModuleHook, check_uncached, check_unreplaced
from shapefirst.guidance.introspection import Running, running
from shapefirst.guidance.one_batch import OneBatch
from shapefirst.guidance.rows import Taking, each_tensor, rows_of, spread_rows
from shapefirst.guidance.stochastic import is_stochastic
from shapefirst.guidance.timeline import Generation, follow
from shapefirst.guidance.two_calls import TwoCalls
from shapefirst.guidance.ways import Asked, Course
from shapefirst.guidance.whole_calls import WholeCalls
from shapefirst.policies.auto import Auto, Policy, check_policy, warn_of_small_budget
from shapefirst.policies.correction import follow_corrections
from shapefirst.policies.schedule import TextSchedule

__all__ = ["ControlHook", "SteeringHook"]

_FULL: Final = TextSchedule.always()  # made once, and not in each call of a denoiser


class SteeringHook(ModuleHook):
    """Stands between a pipeline and one of its denoisers, and runs what the policy asks for."""

    busy = "denoiser is being guided"

    def __init__(self, pipe: Any, module: torch.nn.Module) -> None:
        super().__init__(pipe, module)
        self._family = family_of(pipe)
        self._runs: list[Generation] = []
        self._checked: Generation | None = None
        self._policies: WeakKeyDictionary[Generation, dict[Block, Policy]] = WeakKeyDictionary()
        self._ways: WeakKeyDictionary[Generation, dict[Block, dict[str, Course]]] = WeakKeyDictionary()
        self._guided: tuple[Generation | None, int, bool] = None, 0, False  # the run and the rows, and whether it is
        self._unguided: WeakSet[Generation] = WeakSet()  # runs with steps that are not
        self._calls: tuple[Any, int] = None, 0  # so far at the run's position

    def around(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        asked = self.asked(args, kwargs)
        evaluate = partial(self._evaluate, forward, len(args))
        met = self.meet(asked)
        blocks = self.blocks
        for block in blocks:
            block.ask(asked.rows, blocks[-1].part)
        if met is None:
            return evaluate(asked.arguments, asked.rows)
        way, call, asked = met
        return way.answer(call, asked, evaluate)

    def asked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Asked:
        arguments = self.arguments(args, kwargs)
        latents = self.latents_in(arguments)
        return Asked(arguments, latents, arguments[latents], context=self.context)

    def _evaluate(self, forward: Forward, positional: int, arguments: dict[str, Any], rows: int) -> Any:
        for block in self.blocks:
            block.evaluations.rows += rows
            block.evaluations.calls += 1
        names = list(arguments)
        args = tuple(arguments[name] for name in names[:positional])
        kwargs = {name: arguments[name] for name in names[positional:]}
        return forward(*args, **kwargs)

    def meet(self, asked: Asked, *, by: ModuleHook | None = None) -> tuple[Course, Call, Asked] | None:
        """Who answers a call of the denoiser, or tells what feeds it (`by`) which rows will run; None: all run.

        Raises:
            UnsupportedPipelineError: The policy cannot be carried out here.
            ShapefirstError: It does not fit the generation's steps.
        """
        block: Block | None = next(reversed(self.blocks), None)  # another thread may end the last one at any time
        if block is None:
            return None
        policy = block.policy
        if policy == _FULL:
            return None
        own = self.pipe if isinstance(self.pipe, OwnLoop) else None  # says all itself, whoever calls
        caller = None if own else running(self.denoiser)
        _check_solver(block, self.pipe if caller is None else caller.pipe)
        family = self._family if caller is None or caller.pipe is self.pipe else family_of(caller.pipe)
        run = self._run(asked, caller)
        scale = caller.guidance_scale if caller else own.guidance_scale if own else None
        in_turn = _is_in_turn(policy)
        policy = self._policy(block, run)
        call = run.call(1.0 if scale is None else scale, levelled=policy.order is not None, in_turn=in_turn)
        ways = self._ways.setdefault(run, {}).setdefault(block, {})
        if not ways:
            check_policy(policy, call.num_steps)
        asked = replace(asked, scale=scale, place=self._place(run, count=by is None))
        further = asked.place > 0 and "one batch" in ways
        name = "one batch" if further else self._way(block, family, run, caller, asked)
        if name is None:
            return None
        if name not in ways:
            ways[name] = self._new_way(name, block, run, family, caller)
        follow_corrections(policy, call.step, call.num_steps, run.scheduler)
        return ways[name], call, asked

    def _policy(self, block: Block, run: Generation) -> Policy:
        """The block's policy as it holds in this run."""
        found = self._policies.setdefault(run, {})
        if block not in found:
            self._check_turns(block.policy, run)
            found[block] = block.policy.in_run(run.scheduler, *run.in_turn())
        return found[block]

    def _check_turns(self, policy: Policy, run: Generation) -> None:
        """Raise ShapefirstError before anything runs if a policy does not fit a denoiser's turn, its own or another's.

        Where it has all steps, or the policy is one of the whole generation's steps, each call says it. Steps that no
        denoiser has (Wuerstchen's last timestep) are no turn.
        """
        if len(run.turn) == len(run.values) or not _is_in_turn(policy):
            return
        names = {unwrap_module(part): name for name, part in denoisers_of(self.pipe).items()}
        own = names.pop(self.denoiser, "denoiser")
        turns = {own: run.in_turn()}
        if names:
            turns[next(iter(names.values())) if len(names) == 1 else "other denoiser"] = run.in_turn_of_others()
        for name, (calls, levels) in turns.items():
            try:
                if calls:
                    check_policy(policy.in_run(run.scheduler, calls, levels), len(calls))
            except ShapefirstError as error:
                raise ShapefirstError(
                    f"The {name} of this {name_of(self.pipe)} has its turn in {len(calls)} of {run.num_steps} steps, "
                    f"and there the policy cannot be followed: {error}"
                ) from None

    def _run(self, asked: Asked, caller: Running | None) -> Generation:
        names = (self._family.timestep, *TIMES)
        t = next((asked.arguments[name] for name in names if name in asked.arguments), None)
        run = follow(self._runs, t, self.pipe, caller, self.denoiser)
        if run is not self._checked:
            check_unreplaced(self.denoiser)
            self._checked = run
        return run

    def _place(self, run: Generation, *, count: bool) -> int:
        """How many calls there have been at the run's position."""
        at = run, run.last
        place = self._calls[1] if self._calls[0] == at else 0
        self._calls = at, place + count
        return place

    def _way(self, block: Block, family: Family, run: Generation, caller: Running | None, asked: Asked) -> str | None:
        policy, pipe = block.policy, self.pipe if caller is None else caller.pipe
        if family.way == "one batch" and self._is_guided(block, family, run, caller, asked):
            if isinstance(policy, Auto) and caller is None and asked.scale is None:
                raise ShapefirstError(
                    f"A tolerance needs the guidance scale, which only a call of the {type(pipe).__name__} itself "
                    "tells: use a TextSchedule, or apply_to_module(..., guidance_scale=), with a loop of your own."
                )
            name = "one batch"
        elif policy.keep == "neither":
            return "whole calls"
        elif family.way == "two calls":
            name = "two calls"
        else:
            block.warn_unguided(name_of(pipe))
            return None
        return name

    def _new_way(self, name: str, block: Block, run: Generation, family: Family, caller: Running | None) -> Course:
        policy = self._policy(block, run)
        eta = None if caller is None else caller.names.get("eta")
        stochastic = policy.order is not None and is_stochastic(run.scheduler, policy, eta)
        if stochastic:
            policy = replace(policy, order=0)
        else:
            whole = getattr(run.scheduler, "num_inference_steps", None)
            warn_of_small_budget(policy, run.scheduler, run.num_steps, whole)
        if name == "whole calls":
            return WholeCalls(policy, stochastic=stochastic)
        if policy.keep != "neither" or isinstance(policy, Auto):
            check_uncached(self.denoiser)  # one may have been switched on since the block was made
        if name == "two calls":
            pipe = self.pipe if caller is None else caller.pipe
            known = block.conditions_of(run.timesteps)
            return TwoCalls(policy, family, known, partial(block.warn_unguided, name_of(pipe)))
        return OneBatch(policy, family, late=run in self._unguided, stochastic=stochastic)

    def _is_guided(self, block: Block, family: Family, run: Generation, caller: Running | None, asked: Asked) -> bool:
        """Whether the batch holds rows of every branch. Found out when it first matters, and when its size changes."""
        if asked.place and self._guided[0] is run:  # skip-layer guidance: of one branch
            return self._guided[2]
        if self._guided[:2] != (run, asked.rows):
            try:
                # Two images of one seed have equal rows without guidance, too: what the pipeline says goes first.
                said = says_guided(caller, asked.batch, family, self.denoiser)
            except UnsupportedPipelineError:
                if block.policy.keep != "neither":
                    raise
                said = False  # whatever it holds, whole calls can be skipped
            self._guided = run, asked.rows, parts_agree(asked.batch, len(family.branches)) if said is None else said
            if not self._guided[2]:
                self._unguided.add(run)
        return self._guided[2]


def _check_solver(block: Block, pipe: Any) -> None:
    """Raise ShapefirstError before anything runs if a pipeline samples without the solver that the policy has."""
    if block.scheduler is not None and getattr(pipe, "scheduler", None) is not block.scheduler:
        raise ShapefirstError(
            f"The policy samples with a solver of its own, and the {name_of(pipe)} that runs has another scheduler: "
            "enter guide() with that pipeline, and leave it the scheduler that it has then."
        )


def _is_in_turn(policy: Policy) -> bool:
    """Whether it holds for the steps of each denoiser's turn, and not for those of the generation."""
    return isinstance(policy, Auto) or policy.placement is not None


class ControlHook(ModuleHook):
    """Stands before a ControlNet, and runs it on the rows that its denoiser is about to run.

    Rows that do not run are zeros, which nobody looks at.
    """

    busy = "ControlNet is being guided"

    def __init__(self, pipe: Any, module: torch.nn.Module) -> None:
        super().__init__(pipe, module)
        self._feeds, *_ = (unwrap_module(part) for part in denoisers_of(pipe).values())
        self._like: Any = None  # the latest output of all rows, as zeros that take no memory
        self._like_of: torch.Size | None = None  # and the latents that it was of

    def around(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = self.arguments(args, kwargs)
        latents = arguments[self.latents_in(arguments)]
        rows, of = self._rows(arguments, latents), len(latents)
        for block in self.blocks:
            block.evaluations.control_rows += len(rows)
        if not rows:
            return self._like
        if len(rows) < of:
            taking = Taking(rows, of, family=family_of(self.pipe))
            args = tuple(rows_of(name, value, taking) for name, value in self.arguments(args, {}).items())
            kwargs = {name: rows_of(name, value, taking) for name, value in kwargs.items()}
        out = forward(*args, **kwargs)
        whole = out if len(rows) == of else each_tensor(out, lambda x: spread_rows(x, rows, of))
        self._like, self._like_of = each_tensor(whole, lambda x: x.new_zeros(()).expand(x.shape)), latents.shape
        return whole

    def _rows(self, arguments: dict[str, Any], latents: torch.Tensor) -> Sequence[int]:
        """Those of its own batch that the denoiser will look at: all, or in guess mode those of the text alone."""
        steering, caller = SteeringHook.on(self._feeds), running(self._feeds)
        everything = range(len(latents))
        if steering is None or (caller is None and running(self.denoiser) is not None):  # it feeds another denoiser
            return everything
        guesses = caller is not None and caller.is_guided and caller.names.get("guess_mode", False)
        batch = torch.cat([latents] * 2) if guesses else latents
        met = steering.meet(Asked(arguments, self.latents_in(arguments), batch), by=self)
        if met is None:
            return everything
        way, call, asked = met
        rows = way.rows(call, asked, self)
        if guesses:
            rows = [row - len(latents) for row in rows if row >= len(latents)]
        return rows if rows or self._like_of == latents.shape else everything
