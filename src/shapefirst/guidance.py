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

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput

from shapefirst.branches import evaluating, halves_agree, says_guided
from shapefirst.denoiser_hook import DenoiserHook
from shapefirst.errors import ShapefirstError
from shapefirst.layout import denoiser_of
from shapefirst.schedule import Branch, TextSchedule
from shapefirst.timeline import Run, follow

__all__ = ["Evaluations", "guide", "is_steered", "text_until"]


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


def is_steered(denoiser: Any) -> bool:
    """Whether a denoiser is in a `guide` block."""
    return _GuidanceHook.on(denoiser) is not None


class _Guide(AbstractContextManager[Evaluations]):
    """The `with` block. It can be entered again, and within itself."""

    def __init__(self, pipe: Any, schedule: TextSchedule) -> None:
        self._pipe, self._schedule = pipe, schedule
        self._denoiser = denoiser_of(pipe)
        self._entered: list[tuple[_GuidanceHook, _Block]] = []

    def __enter__(self) -> Evaluations:
        block = _Block(self._schedule, Evaluations())
        self._entered.append((_GuidanceHook.enter(self._pipe, self._denoiser, block), block))
        return block.evaluations

    def __exit__(self, *_: object) -> None:
        hook, block = self._entered.pop()
        hook.leave(block)


@dataclass(frozen=True, eq=False)
class _Block:
    schedule: TextSchedule
    evaluations: Evaluations


class _GuidanceHook(DenoiserHook):
    """Stands between a pipeline and its denoiser, and runs one half of the batch where the schedule drops the other."""

    name = "shapefirst.guidance"
    busy = "denoiser is being guided"

    def __init__(self, pipe: Any, denoiser: Any) -> None:
        super().__init__(pipe, denoiser)
        self._run: Run | None = None
        self._guided = False
        self._guided_for: tuple[Run | None, int] = None, 0  # the run and the rows for which that was found out

    # A compiled denoiser stays compiled; the bookkeeping around it, which changes with every call, is not traced.
    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        schedule = self.blocks[-1].schedule
        rows = self.latents(args, kwargs).shape[0]

        run = self._follow(self.argument("timestep", args, kwargs))
        alone = not schedule.uses_text(run.step, run.num_steps) and self._is_guided(run, self.latents(args, kwargs))
        if alone:
            half = slice(0, rows // 2) if schedule.keep == "null" else slice(rows // 2, rows)
            args, kwargs = _each_tensor((args, kwargs), lambda x: x[half] if _has_rows(x, rows) else x)
            rows //= 2
        # With one image the fixed cost is most of a call; inference mode takes part of it away, where the caller
        # records no gradients anyway. What leaves it is a copy, and so an ordinary tensor again.
        quick = not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        with (
            evaluating(schedule.keep) if alone else nullcontext(),
            torch.inference_mode() if quick else nullcontext(),
        ):
            prediction = forward(*args, **kwargs)
        if alone:
            prediction = _each_tensor(prediction, lambda y: torch.cat([y, y]) if _has_rows(y, rows) else y.clone())
        elif quick:
            prediction = _each_tensor(prediction, torch.clone)

        for block in self.blocks:
            block.evaluations.rows += rows
            block.evaluations.calls += 1
        return prediction

    @torch.compiler.disable
    def _follow(self, t: Any) -> Run:
        self._run = follow(self._run, t, self.pipe)
        return self._run

    @torch.compiler.disable
    def _is_guided(self, run: Run, latents: torch.Tensor) -> bool:
        """Whether the batch holds a null and a text half. Found out once a generation, when it first matters."""
        if self._guided_for != (run, len(latents)):
            # Two images of one seed have equal rows without guidance, too: what the pipeline says goes first.
            said = says_guided(self.pipe, latents)
            self._guided = halves_agree(latents) if said is None else said
            self._guided_for = run, len(latents)
        return self._guided


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
