"""Text in some of the steps only, on a stock diffusers pipeline.

    with text_until(pipe, step=25):
        pipe("a red wooden car", num_inference_steps=50)

    with guide(pipe, budget=0.6):
        pipe("a red wooden car", num_inference_steps=50)

A guided step of a pipeline evaluates its denoiser on 2B rows, null first, and combines the halves itself:

    eps_hat = eps_null + w (eps_text - eps_null)                                    (Yi et al. 2024, eq. 9)

In any other step the hook below runs the denoiser on fewer rows, or not at all, and fills in the rest (see
`shapefirst.guidance.follow`). Where one branch stands for both, the pipeline's own formula gives
eps + w (eps - eps) = eps exactly, whatever w is. Whatever the pipeline does with the two halves besides, it does with
what was filled in: guidance rescale takes the standard deviation of the extrapolated text prediction, and learned
sigmas are extrapolated, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import BaseOutput

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families.layout import denoiser_of
from shapefirst.guidance.branches import evaluating, evaluating_some, guidance_scale_of, halves_agree, says_guided
from shapefirst.guidance.conditions import Conditions
from shapefirst.guidance.follow import Course
from shapefirst.guidance.hook import DenoiserHook, check_unreplaced
from shapefirst.guidance.timeline import Generation, follow
from shapefirst.policies.schedule import Auto, Branch, Policy, TextSchedule
from shapefirst.policies.words import policy_of

__all__ = ["Evaluations", "guide", "is_steered", "text_until"]


@dataclass
class Evaluations:
    """What the denoiser has really done since the block was entered.

    Attributes:
        rows: Rows evaluated, over all calls: with B images, 2B for a guided step.
        calls: Calls of the denoiser, those that evaluated nothing left out.
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


def guide(
    pipe: Any, policy: Policy | str | Path | None = None, *, budget: float | None = None, tol: float | None = None
) -> AbstractContextManager[Evaluations]:
    """Within the block, generations of `pipe` follow a policy; the block yields an `Evaluations` counter.

    Any batch size, `num_images_per_prompt`, scheduler and dtype will do. Steps are denoising steps, whatever the number
    of denoiser calls in each (see `shapefirst.guidance.timeline`), and are those that the call runs: where
    image-to-image with strength 0.6 runs the last 30 of 50 steps, or a call with `denoising_end=0.6` the first 30,
    there are 30. With `guidance_scale <= 1` a pipeline runs no null branch: there is nothing to drop and nothing
    changes.

    Blocks nest: the inner policy holds until its block ends, then the outer one again; an outer counter also counts
    the inner block. The pipeline is left as it was found, also if the block raises. A loop of your own over the
    pipeline's parts works too, except with a tolerance; its batch is taken for a guided one if both halves of the
    latents are equal.

    Where a callback changes what a generation is made of (the prompt, the size of the latents, the guidance scale), a
    policy that extrapolates begins anew: it guides each step until it has as many behind it as its order asks for.

    Args:
        pipe: A stock diffusers pipeline with classifier-free guidance.
        policy: A `TextSchedule`, an `Auto`, words such as "paper:25" (see `shapefirst.policies.words`), or the path of
            a policy that `shapefirst tune` wrote.
        budget: In its place: the share of the evaluations of full guidance that may be spent, above 0 and up to 1. The
            guided steps are then well placed, and the others extrapolated.
        tol: In its place: the error that an extrapolation may have, from 0 up; each image decides for itself (`Auto`).

    Raises:
        UnsupportedPipelineError: Here, if the pipeline's guidance is of an unknown layout, or another tool has replaced
            its denoiser's methods; in the first step, if its batch turns out to be, or what its denoiser is given
            beside the latents has rows of which cannot be told whose they are.
        ShapefirstError: Not exactly one of policy, budget and tol; one that is no policy; a policy file that was made
            for another model or sampler; in the first step of a generation, a policy that does not fit its steps.
    """
    return _Guide(pipe, policy_of(pipe, policy, budget=budget, tol=tol))


def is_steered(denoiser: Any) -> bool:
    """Whether a denoiser is in a `guide` block."""
    return _GuidanceHook.on(denoiser) is not None


class _Guide(AbstractContextManager[Evaluations]):
    """The `with` block. It can be entered again, and within itself."""

    def __init__(self, pipe: Any, policy: Policy) -> None:
        self._pipe, self._policy = pipe, policy
        self._denoiser = denoiser_of(pipe)
        self._entered: list[tuple[_GuidanceHook, _Block]] = []

    def __enter__(self) -> Evaluations:
        block = _Block(self._policy, Evaluations())
        self._entered.append((_GuidanceHook.enter(self._pipe, self._denoiser, block), block))
        return block.evaluations

    def __exit__(self, *_: object) -> None:
        hook, block = self._entered.pop()
        hook.leave(block)


@dataclass(frozen=True, eq=False)
class _Block:
    policy: Policy
    evaluations: Evaluations


class _GuidanceHook(DenoiserHook):
    """Stands between a pipeline and its denoiser, and runs the rows that the policy asks for."""

    name = "shapefirst.guidance.blocks"
    busy = "denoiser is being guided"

    def __init__(self, pipe: Any, denoiser: Any) -> None:
        super().__init__(pipe, denoiser)
        self._run: Generation | None = None
        self._course: Course | None = None
        self._course_of: tuple[Generation | None, Policy | None] = None, None
        self._conditions = Conditions()
        self._scale: float | None = None  # w, as far as a policy asks for it
        self._guided = False
        self._guided_for: tuple[Generation | None, int] = None, 0  # the run and the rows for which that was found out
        self._wrap: Callable[[torch.Tensor], Any] = _as_tuple  # a tensor -> the denoiser's kind of output

    # A compiled denoiser stays compiled; the bookkeeping around it, which changes with every call, is not traced.
    @torch.compiler.disable(recursive=False)
    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        latents = self.latents(args, kwargs)
        course = self._follow(self.arguments(args, kwargs), latents)
        rows = range(len(latents)) if course is None or course.is_guided else course.rows()

        # With one image the fixed cost is most of a call; inference mode takes part of it away, where the caller
        # records no gradients anyway. What leaves it is a copy, and so an ordinary tensor again.
        quick = not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        with _says(course), torch.inference_mode() if quick else nullcontext():
            prediction = None
            if rows:
                if len(rows) < len(latents):
                    args, kwargs = self._taken(args, kwargs, _Taking(rows, len(latents)))
                prediction = forward(*args, **kwargs)
            if course is not None:
                prediction = self._complete(course, prediction)
        if quick:
            prediction = _each_tensor(prediction, torch.clone)

        for block in self.blocks:
            block.evaluations.rows += len(rows)
            block.evaluations.calls += bool(rows)
        return prediction

    @torch.compiler.disable
    def _follow(self, arguments: dict[str, Any], latents: torch.Tensor) -> Course | None:
        """The course of this call's generation, brought up to date; None where its batch is to run as it is."""
        policy, previous = self.blocks[-1].policy, self._run
        self._run = run = follow(previous, arguments["timestep"], self.pipe)
        if run is not previous:
            check_unreplaced(self.denoiser)
        if isinstance(policy, TextSchedule):
            policy.check(run.num_steps)
        if policy == TextSchedule.always() or not self._is_guided(run, latents):
            return None
        begins = self._course_of != (run, policy)
        if begins:
            self._taken((), arguments, _Taking([0], len(latents)))  # what cannot be cut is refused before anything runs
            self._course_of, self._conditions = (run, policy), Conditions()
            self._scale = guidance_scale_of(self.pipe) if isinstance(policy, Auto) else None
        scale = getattr(self.pipe, "guidance_scale", self._scale)
        changed = policy.order is not None and self._conditions.change(arguments, self.latents_name, scale)
        if begins or changed or self._course is None or 2 * self._course.images != len(latents):
            self._course = Course(policy, len(latents) // 2, late=changed)
        self._course.begin(run, scale)
        return self._course

    @torch.compiler.disable
    def _taken(self, args: tuple[Any, ...], kwargs: dict[str, Any], taking: _Taking) -> tuple[Any, Any]:
        """The denoiser's arguments for some of the rows only."""
        positional = (_rows_of(name, value, taking) for name, value in self.arguments(args, {}).items())
        return tuple(positional), {name: _rows_of(name, value, taking) for name, value in kwargs.items()}

    @torch.compiler.disable
    def _complete(self, course: Course, prediction: Any) -> Any:
        """The denoiser's output for all rows, from that of the rows that ran."""
        if prediction is None:
            return self._wrap(course.completed(None))
        if isinstance(prediction, BaseOutput):
            kind, (first, *_) = type(prediction), prediction
            self._wrap = lambda out: kind(**{first: out})
        else:
            self._wrap = _as_tuple
        out = course.completed(prediction[0])
        return prediction if course.is_guided else self._wrap(out)

    @torch.compiler.disable
    def _is_guided(self, run: Generation, latents: torch.Tensor) -> bool:
        """Whether the batch holds a null and a text half. Found out once a generation, when it first matters."""
        if self._guided_for != (run, len(latents)):
            # Two images of one seed have equal rows without guidance, too: what the pipeline says goes first.
            said = says_guided(self.pipe, latents)
            self._guided = halves_agree(latents) if said is None else said
            self._guided_for = run, len(latents)
        return self._guided


def _as_tuple(out: torch.Tensor) -> tuple[torch.Tensor]:
    return (out,)


def _says(course: Course | None) -> AbstractContextManager[None]:
    """Tells whoever listens inside of the denoiser which branches run."""
    if course is None or course.is_guided:
        return nullcontext()
    null, text = len(course.null_images), len(course.text_images)
    if null and text:
        return evaluating("null", "text") if null == text else evaluating_some()
    return evaluating("null" if null else "text")


#: Arguments that are the same for all rows, however many entries they have.
_SHARED = frozenset({"image_rotary_emb", "img_ids", "ip_adapter_masks", "rotary_embedding", "txt_ids"})


def _rows_of(name: str, value: Any, taking: _Taking) -> Any:
    """Some rows of one of the denoiser's arguments, with all that is in it.

    Raises:
        UnsupportedPipelineError: It has tensors of which cannot be told what belongs to which row of the batch.
    """
    if name in _SHARED:
        return value
    if name.endswith("attention_kwargs"):
        taking = replace(taking, exactly=True)
    if isinstance(value, dict):
        return {key: _rows_of(key, part, taking) for key, part in value.items()}
    return _each_tensor(value, replace(taking, name=name))


@dataclass(frozen=True)
class _Taking:
    """Some of the rows of a batch of `of`, where each may have several entries: a video's frames have one each.

    A single entry is for all rows alike and stays as it is. With `exactly`, so does what has not one entry a row: what
    users hand to the attention processors may be anything. Neighbouring rows are not copied.
    """

    rows: Sequence[int]
    of: int
    name: str = "tensor"
    exactly: bool = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 0 or len(x) == 1 or (self.exactly and len(x) != self.of):
            return x
        each, rest = divmod(len(x), self.of)
        if rest or not each:
            raise UnsupportedPipelineError(
                f"The denoiser is given {self.of} rows of latents but {len(x)} of {self.name}, so it cannot be told "
                "which of them belong to the branch to drop: give as many of them as there are images."
            )
        first, last = self.rows[0], self.rows[-1]
        if last - first + 1 == len(self.rows):
            return x[first * each : (last + 1) * each]
        return x.unflatten(0, (self.of, each))[list(self.rows)].flatten(0, 1)


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
