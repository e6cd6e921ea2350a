"""One policy over B images: which of them want which branch in a call of the denoiser, and what stands for the rest.

It is the one core that carries policies out: of a stock pipeline's hook, of the loop of our own, alone or of several
policies together, and of the tuner's replay. It knows no pipeline and no scheduler. Call by call,

    wanted = follower.wanted(call)                  branch -> images; summed over a run, what the policy costs
    seen   = {branch: denoiser(those images)}       nothing runs where there are none
    whole  = follower.complete(call, seen, x)       branch -> all B images

and the pipeline's formula, or `guided_prediction`, makes eps_hat of it. Where one branch stands for both that gives
eps + w (eps - eps) = eps exactly, whatever w is.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from shapefirst.guidance.extrapolation import Memory
from shapefirst.guidance.stochastic import clean_of, output_of
from shapefirst.policies.auto import Auto, Policy
from shapefirst.policies.schedule import TextSchedule

__all__ = ["BOTH", "Call", "Follower", "Wanted", "guided_prediction"]

BOTH: tuple[str, ...] = ("null", "text")

#: Branch -> the images, in order, that it is evaluated for.
Wanted = dict[str, Sequence[int]]


class Call(NamedTuple):
    """One call of the denoiser.

    Attributes:
        step: The denoising step, from 0.
        num_steps: N.
        begins_step: False for a second evaluation in the step (Heun).
        u: u_t of `guidance.extrapolation`; policies without an order do not ask for it.
        guidance_scale: w; only policies with a tolerance ask for it.
        clean: p_t and q_t of `guidance.stochastic`, if they are known; only stochastic samplers ask for them.
    """

    step: int
    num_steps: int
    begins_step: bool
    u: float
    guidance_scale: float
    clean: tuple[float, float] | None = None


class Follower:
    """See the module.

    Args:
        policy: The policy.
        images: B.
        branches: What full guidance evaluates for every image.
        without_text: Those of them that do not see the text. They are kept where the policy keeps the null branch, and
            the first one of them then stands for the others.
        late: It takes over half-way from another one, of other conditions: a policy that extrapolates guides every step
            until it has as much to extrapolate from as it asks for.
        stochastic: The sampler adds noise: what is extrapolated is that of `guidance.stochastic`, whatever the order.

    Attributes:
        evaluations: Of each image, so far: what the policy costs it when it is followed alone.
        guided_steps: Of each image, so far.
        kept: The branches that every step evaluates.
    """

    def __init__(
        self,
        policy: Policy,
        images: int,
        branches: Sequence[str] = BOTH,
        *,
        without_text: Sequence[str] = ("null",),
        late: bool = False,
        stochastic: bool = False,
    ) -> None:
        if stochastic and policy.order:
            policy = replace(policy, order=0)
        self.policy, self.images, self.branches, self._late = policy, images, tuple(branches), late
        self._memory = None if policy.order is None else Memory(images, policy.order)
        self._everyone = tuple(range(images))
        kept = {"null": tuple(without_text), "text": ("text",), "neither": ()}[policy.keep]
        self.kept = tuple(branch for branch in kept if branch in self.branches)
        self._holds_clean = stochastic and not self.kept
        self._guided: tuple[int, ...] | None = None
        self._due = (0,) * images  # each image's next guided step, for policies with a tolerance
        self._latest = ((0, 0.0),) * images  # and its latest one, with its u
        self._dtype = torch.float32
        self.evaluations = self.guided_steps = (0,) * images

    @torch.compiler.disable
    def wanted(self, call: Call) -> Wanted:
        """Which images want which branch now. A step with several calls guides the same images in each."""
        if call.begins_step or self._guided is None:
            self._guided = self._images_to_guide(call)
        return {branch: self._everyone if branch in self.kept else self._guided for branch in self.branches}

    @torch.compiler.disable
    def complete(self, call: Call, seen: Mapping[str, Tensor], latents: Tensor | None = None) -> dict[str, Tensor]:
        """The model's output of the images that were wanted, (images, ...) a branch -> of all, (B, ...) a branch.

        Extrapolations are made in float32 (or what is finer in the output) and handed on in the output's own format.
        `latents` are what the denoiser is given of all images, (B, ...); only stochastic samplers ask for them.
        """
        guided = self._guided
        assert guided is not None, "wanted() comes first"
        call = self._held(call, latents)
        self._count(call, guided)
        if len(guided) == self.images:
            self.learn(call, seen, latents=latents)
            return dict(seen)
        if guided:
            some = {b: y[list(guided)] if b in self.kept else y for b, y in seen.items()}
            self.learn(call, some, guided, None if latents is None else latents[list(guided)])
        others = [image for image in self._everyone if image not in guided]
        known = None if self._memory is None else self._memory.extrapolate(others, call.u)
        kept = seen[self.kept[0]] if self.kept else None
        whole: dict[str, Tensor] = {}
        for place, branch in enumerate(self._extrapolated):
            values = kept[others] if kept is not None and guided else kept
            if known is not None:
                made = known[:, place]
                if latents is not None and call.clean is not None:
                    made = output_of(made, latents[others], call.clean)
                values = made if values is None else values + made
            assert values is not None
            dtype = self._dtype if kept is None else kept.dtype
            whole[branch] = _put(values.to(dtype), others, seen[branch] if guided else None, guided)
        return {branch: whole[branch] if branch in whole else seen[branch] for branch in self.branches}

    @torch.compiler.disable
    def learn(
        self,
        call: Call,
        seen: Mapping[str, Tensor],
        images: Sequence[int] | None = None,
        latents: Tensor | None = None,
    ) -> None:
        """Take in what all branches gave of guided images (by default of all), and find each one's next guided step.

        `latents` are what they gave it of, as in `complete`.

        `complete` does so itself; this is for what another follower of the same generation has seen.
        """
        if self._memory is None or (isinstance(self.policy, Auto) and not call.begins_step):
            # A second call is too near to tell anything about the extrapolation over a step.
            return
        call = self._held(call, latents)
        images = self._everyone if images is None else images
        self._dtype = seen[self.branches[0]].dtype
        exact = torch.promote_types(self._dtype, torch.float32)  # half precision would round small differences
        kept = seen[self.kept[0]].to(exact) if self.kept else None
        values = [seen[b].to(exact) if kept is None else seen[b].to(exact) - kept for b in self._extrapolated]
        if latents is not None and call.clean is not None:
            values = [clean_of(value, latents, call.clean) for value in values]
        y = torch.stack(values, dim=1)
        if call.begins_step and isinstance(self.policy, Auto):
            self._plan(call, self.policy, images, y)
        self._memory.remember(images, call.u, y)

    def fork(self) -> Follower:
        """One that goes on from here on its own. Tensors are shared, and never written to."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other._memory = None if self._memory is None else self._memory.fork()
        return other

    @torch.compiler.disable
    def key(self, call: Call) -> Hashable:
        """Followers of one generation so far whose keys are equal do the same in this call."""
        wanted = tuple(self.wanted(call).items())
        return wanted, self.policy.order if len(self._guided or ()) < self.images else None

    def _held(self, call: Call, latents: Tensor | None) -> Call:
        """The call, with p_t and q_t only where x0 stands for the output."""
        return call if self._holds_clean and latents is not None else call._replace(clean=None)

    def _count(self, call: Call, guided: Sequence[int]) -> None:
        kept, whole = len(self.kept), len(self.branches)
        self.evaluations = tuple(n + (whole if i in guided else kept) for i, n in enumerate(self.evaluations))
        if call.begins_step:
            self.guided_steps = tuple(n + (i in guided) for i, n in enumerate(self.guided_steps))

    @property
    def _extrapolated(self) -> list[str]:
        """The branches that are not kept: what is remembered of each is its output, or what it has beyond the kept."""
        return [branch for branch in self.branches if branch not in self.kept]

    def _images_to_guide(self, call: Call) -> tuple[int, ...]:
        if isinstance(self.policy, TextSchedule):
            guided = self.policy.uses_text(call.step, call.num_steps) or self._must_learn()
            return self._everyone if guided else ()
        return tuple(image for image in self._everyone if self._due[image] <= call.step)

    def _must_learn(self) -> bool:
        """Whether a follower that began late knows less than its policy extrapolates from, of all images alike."""
        return self._late and self._memory is not None and self._memory.known(0) <= self._memory.order

    def _plan(self, call: Call, policy: Auto, images: Sequence[int], y: Tensor) -> None:
        assert self._memory is not None
        measurable = [n for n, image in enumerate(images) if self._memory.known(image) > policy.order]
        gaps = dict.fromkeys(images, 1)
        if measurable and policy.tol > 0:
            measured = [images[n] for n in measurable]
            error = self._memory.extrapolate(measured, call.u) - y[measurable]
            sizes = rms(self._of_prediction(call, error.unbind(1))).tolist()
            for image, size in zip(measured, sizes, strict=True):
                step, u = self._latest[image]
                gaps[image] = policy.next_gap(call.step - step, size * abs(u - call.u))
        due, latest = list(self._due), list(self._latest)
        for image, gap in gaps.items():
            latest[image] = call.step, call.u
            due[image] = policy.due(call.step, gap, call.num_steps)
        self._due, self._latest = tuple(due), tuple(latest)

    def _of_prediction(self, call: Call, errors: Sequence[Tensor]) -> Tensor:
        """The error of eps_hat that errors of what is extrapolated make."""
        if call.clean is not None:
            errors = [error / call.clean[1] for error in errors]
        parts = dict(zip(self._extrapolated, errors, strict=True))
        if len(self.branches) == 1:
            return parts[self.branches[0]]
        zero = torch.zeros_like(errors[0])
        return guided_prediction({branch: parts.get(branch, zero) for branch in BOTH}, call.guidance_scale)


def guided_prediction(branches: Mapping[str, Tensor], guidance_scale: float) -> Tensor:
    """eps_hat = eps_null + w (eps_text - eps_null) (Yi et al. 2024, eq. 9), or the only branch that there is."""
    if len(branches) == 1:
        (only,) = branches.values()
        return only
    return branches["null"] + guidance_scale * (branches["text"] - branches["null"])


def rms(x: Tensor) -> Tensor:
    """(B, ...) -> (B,), each row's root mean square."""
    return x.flatten(1).square().mean(1).sqrt()


def _put(values: Tensor, at: Sequence[int], seen: Tensor | None, guided: Sequence[int]) -> Tensor:
    """All images, of those `values` that were made up and what was seen of the guided ones."""
    if seen is None:
        return values
    whole = values.new_empty(len(values) + len(guided), *values.shape[1:])
    whole[list(at)], whole[list(guided)] = values, seen
    return whole
