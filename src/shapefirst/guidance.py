"""Text in some of the steps only, on a stock diffusers pipeline.

    with text_until(pipe, step=25):
        pipe("a red wooden car", num_inference_steps=50)

A guided step of a pipeline evaluates its denoiser on 2B rows, null first, and combines the halves itself:

    eps_hat = eps_null + w (eps_text - eps_null)                                    (Yi et al. 2024, eq. 9)

In a step without text the hook below runs the denoiser on the B rows of one branch and returns that prediction twice.
The pipeline's own formula then gives eps_hat = eps + w (eps - eps) = eps exactly, whatever w is and whatever it does
with eps_hat afterwards (rescaled guidance, learned sigma).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.utils import BaseOutput

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.layout import denoiser_of
from shapefirst.schedule import Branch, TextSchedule
from shapefirst.timeline import position_of, steps_of

__all__ = ["Evaluations", "guide", "text_until"]

_HOOK = "shapefirst.guidance"


@dataclass
class Evaluations:
    """What the denoiser has really done since the block was entered.

    Attributes:
        rows: Rows evaluated, over all calls: with B images, 2B for a guided step and B otherwise.
        calls: Calls of the denoiser.
    """

    rows: int = 0
    calls: int = 0


def text_until(
    pipe: Any, step: int | None = None, *, fraction: float | None = None, keep: Branch = "null"
) -> AbstractContextManager[Evaluations]:
    """Within the block, generations use the text in the first `step` steps (or `fraction` of them) only.

    See `guide` for what it works on and what it raises.

    Args:
        pipe: A stock diffusers pipeline with classifier-free guidance.
        step: The number of leading steps that use the text.
        fraction: The same as a share of the steps, in [0, 1]. Exactly one of the two is given.
        keep: The branch that the later steps keep: "null" (the paper) or "text".
    """
    return guide(pipe, TextSchedule.until(step, fraction=fraction, keep=keep))


def guide(pipe: Any, schedule: TextSchedule) -> AbstractContextManager[Evaluations]:
    """Within the block, generations of `pipe` follow `schedule`; the block yields an `Evaluations` counter.

    Any batch size, `num_images_per_prompt`, scheduler and dtype will do. Steps are denoising steps, whatever the number
    of denoiser calls in each (see `shapefirst.timeline`), and are counted from the first one that the call runs: where
    image-to-image with strength 0.6 runs the last 30 of 50 steps, there are 30. With `guidance_scale <= 1` a pipeline
    runs no null branch: there is nothing to drop and nothing changes.

    Blocks nest: the inner schedule holds until its block ends, then the outer one again; an outer counter also counts
    the inner block. The pipeline is left as it was found, also if the block raises. A loop of your own over the
    pipeline's parts works too; its batch is taken for a guided one if both halves of the latents are equal.

    Raises:
        UnsupportedPipelineError: Here, if the pipeline's guidance is of an unknown layout; in the first step that drops
            a branch, if its batch turns out to be.
        ShapefirstError: In the first step of a generation, if the schedule names a step beyond its last one.
    """
    if not isinstance(schedule, TextSchedule):
        raise ShapefirstError(f"guide() takes a TextSchedule, not {type(schedule).__name__}.")
    return _Guide(pipe, schedule)


class _Guide(AbstractContextManager[Evaluations]):
    """The `with` block. It can be entered again, and within itself."""

    def __init__(self, pipe: Any, schedule: TextSchedule) -> None:
        self._pipe, self._schedule = pipe, schedule
        self._denoiser = denoiser_of(pipe)
        self._entered: list[_Block] = []

    def __enter__(self) -> Evaluations:
        block = _Block(self._schedule, Evaluations())
        _attached(self._pipe, self._denoiser).blocks.append(block)
        self._entered.append(block)
        return block.evaluations

    def __exit__(self, *_: object) -> None:
        block = self._entered.pop()
        hook = guiding_hook(self._denoiser)
        if hook is None:  # somebody has taken all hooks off
            return
        hook.blocks = [other for other in hook.blocks if other is not block]
        if not hook.blocks:
            hook.detach(self._denoiser)


@dataclass(frozen=True, eq=False)
class _Block:
    schedule: TextSchedule
    evaluations: Evaluations


@dataclass
class _Run:
    """One generation, from its first denoiser call on."""

    timesteps: torch.Tensor  # the scheduler's own tensor: set_timesteps() makes a new one for every generation
    values: list[float]
    steps: list[int]
    first: int  # position of the first call
    last: int  # position of the latest call
    rows: int = 0  # batch size for which `guided` was found out
    guided: bool = False

    @property
    def step(self) -> int:
        return self.steps[self.last] - self.steps[self.first]

    @property
    def num_steps(self) -> int:
        return self.steps[-1] - self.steps[self.first] + 1


class _GuidanceHook(ModelHook):
    """Stands between a pipeline and its denoiser, and runs one half of the batch where the schedule drops the other."""

    def __init__(self, pipe: Any, denoiser: Any) -> None:
        super().__init__()
        self.pipe = pipe
        self.blocks: list[_Block] = []  # the innermost is the last
        self.run: _Run | None = None
        self._had = {name for name in ("_diffusers_hook", "forward") if name in vars(denoiser)}
        parameters = list(inspect.signature(denoiser.forward).parameters)
        if "timestep" not in parameters:
            raise UnsupportedPipelineError(
                f"{type(denoiser).__name__} takes no timestep, so the denoising step cannot be told from its calls."
            )
        self._latents = parameters[0]  # `sample` of a U-Net, `hidden_states` of a transformer
        self._places = {name: place for place, name in enumerate(parameters)}

    def detach(self, denoiser: Any) -> None:
        """Leave the denoiser as it was found, to the last attribute."""
        registry = denoiser._diffusers_hook
        registry.remove_hook(_HOOK, recurse=False)
        if not registry.hooks:  # nobody else has hooked the denoiser meanwhile
            for name in {"_diffusers_hook", "forward"} - self._had:
                delattr(denoiser, name)

    # A compiled denoiser stays compiled; the bookkeeping around it, which changes with every call, is not traced.
    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        schedule = self.blocks[-1].schedule
        rows = self._argument(self._latents, args, kwargs).shape[0]

        run = self._follow(self._argument("timestep", args, kwargs))
        if schedule.uses_text(run.step, run.num_steps) or not self._guided(run, args, kwargs):
            prediction = forward(*args, **kwargs)
        else:
            half = slice(0, rows // 2) if schedule.keep == "null" else slice(rows // 2, rows)
            args, kwargs = _each_tensor((args, kwargs), lambda x: x[half] if _has_rows(x, rows) else x)
            rows //= 2
            # With one image the fixed cost is most of a call; inference mode takes part of it away, where the
            # caller records no gradients anyway. What leaves it is a copy, and so an ordinary tensor again.
            with nullcontext() if torch.is_grad_enabled() else torch.inference_mode():
                prediction = forward(*args, **kwargs)
            prediction = _each_tensor(prediction, lambda y: torch.cat([y, y]) if _has_rows(y, rows) else y.clone())

        for block in self.blocks:
            block.evaluations.rows += rows
            block.evaluations.calls += 1
        return prediction

    @torch.compiler.disable
    def _argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return kwargs[name] if name in kwargs else args[self._places[name]]

    @torch.compiler.disable
    def _follow(self, t: Any) -> _Run:
        """The run that this call belongs to, brought up to date: a new one with new timesteps or a step back."""
        scheduler, run = self.pipe.scheduler, self.run
        if run is not None and run.timesteps is not scheduler.timesteps:
            run = None
        values = run.values if run else scheduler.timesteps.tolist()  # the one wait for the device in a generation
        position = position_of(t, scheduler, values, last=run.last if run else None)
        if position is None:
            raise UnsupportedPipelineError(
                f"{type(self.pipe).__name__} gave its denoiser the timestep {float(torch.as_tensor(t).flatten()[0])}, "
                "which is not in its scheduler's list, so the step cannot be told."
            )
        if run is None or position < run.last:
            run = _Run(scheduler.timesteps, values, steps_of(scheduler), first=position, last=position)
        run.last = position
        self.run = run
        return run

    @torch.compiler.disable
    def _guided(self, run: _Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the batch holds a null and a text half. Found out once a generation, when it first matters."""
        x = self._argument(self._latents, args, kwargs)
        if run.rows != x.shape[0]:
            said = _said_guided(self.pipe)
            halves_agree = x.shape[0] % 2 == 0 and _same(*x.chunk(2))
            if said and not halves_agree:
                raise UnsupportedPipelineError(
                    f"{type(self.pipe).__name__} gave its denoiser a batch of {x.shape[0]} rows that is not the "
                    "latents twice, so it does not hold a null and a text half."
                )
            # Two images of one seed have equal rows without guidance, too: what the pipeline says goes first.
            run.guided = halves_agree and said is not False
            run.rows = x.shape[0]
        return run.guided


def _attached(pipe: Any, denoiser: Any) -> _GuidanceHook:
    """The hook on the denoiser: the one that an outer block has put there, or a new one."""
    outer = guiding_hook(denoiser)
    if outer is None:
        hook = _GuidanceHook(pipe, denoiser)
        HookRegistry.check_if_exists_or_initialize(denoiser).register_hook(hook, _HOOK)
        return hook
    if outer.pipe is not pipe:
        raise ShapefirstError("This denoiser is being guided through another pipeline that shares it: end that block.")
    return outer


def guiding_hook(denoiser: Any) -> _GuidanceHook | None:
    """The hook of the `guide` block that the denoiser is in, if any."""
    registry = getattr(denoiser, "_diffusers_hook", None)
    return registry.get_hook(_HOOK) if registry else None


def _said_guided(pipe: Any) -> bool | None:
    """Whether the pipeline's call in progress runs classifier-free guidance; None if no call is in progress.

    Stable Diffusion answers through a property, which is stale outside of a call; PixArt-alpha keeps the answer in a
    local variable of `__call__`. So the call itself is looked for on the stack and asked, once a generation.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            names = frame.f_locals
            if names.get("self") is pipe and "guidance_scale" in names:
                if "do_classifier_free_guidance" in names:
                    return bool(names["do_classifier_free_guidance"])
                return bool(getattr(pipe, "do_classifier_free_guidance", names["guidance_scale"] > 1))
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit; latents that have overflown to NaN count as the same."""
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())


def _has_rows(x: torch.Tensor, rows: int) -> bool:
    return x.ndim > 0 and x.shape[0] == rows


@torch.compiler.disable
def _each_tensor(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`tree` with every tensor in it changed: in tuples, lists, dicts and diffusers' output classes."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, dict):
        changed = {name: _each_tensor(value, change) for name, value in tree.items()}
        return type(tree)(**changed) if isinstance(tree, BaseOutput) else changed
    if isinstance(tree, (tuple, list)):
        return type(tree)(_each_tensor(value, change) for value in tree)
    return tree
