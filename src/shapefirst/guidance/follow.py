"""One generation under one policy: which rows of the guided batch run at each call, and what stands for the others.

A guided batch of B images has 2B rows, null first. At each call of the denoiser

    course.begin(run)                       decides which images are guided: both of their rows run
    out = denoiser(rows course.rows())      nothing runs where there are none
    prediction = course.completed(out)      all 2B rows

so that the pipeline's own formula, eps_hat = eps_null + w (eps_text - eps_null), gives what the policy says.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shapefirst.guidance.extrapolation import Memory
from shapefirst.guidance.timeline import Generation
from shapefirst.policies.schedule import Auto, Policy, TextSchedule

__all__ = ["Course"]


class Course:
    """See the module.

    Args:
        policy: The policy.
        images: B.
        late: It takes over half-way from another one, of other conditions: a policy that extrapolates guides every step
            until it has as much to extrapolate from as it asks for.
    """

    def __init__(self, policy: Policy, images: int, *, late: bool = False) -> None:
        self.policy, self.images, self._late = policy, images, late
        self._memory = None if policy.order is None else Memory(images, policy.order)
        self._guided: list[int] = []
        self._begun = False
        self._due = [0] * images  # each image's next guided step, for policies with a tolerance
        self._latest = [(0, 0.0)] * images  # and its latest one, with its u
        self._step, self._num_steps, self._measures, self._u, self._scale = 0, 1, False, 0.0, 1.0
        self._dtype = torch.float32

    @torch.compiler.disable
    def begin(self, run: Generation, guidance_scale: float | None = None) -> None:
        """A call of the denoiser begins. A step with several (Heun) guides the same images in each.

        Args:
            run: Where the generation is.
            guidance_scale: w; a policy with a tolerance measures its errors by it, others do not ask.
        """
        self._scale = 1.0 if guidance_scale is None else guidance_scale
        self._step, self._num_steps = run.step, run.num_steps
        if run.begins_step or not self._begun:
            self._guided, self._begun = self._images_to_guide(), True
        self._measures = run.begins_step and isinstance(self.policy, Auto)
        if self._memory is not None:
            self._u = run.levels[run.last]

    @property
    def is_guided(self) -> bool:
        """Whether both rows of all images run."""
        return len(self._guided) == self.images

    @property
    def null_images(self) -> list[int]:
        """The images whose null row runs."""
        return list(range(self.images)) if self.policy.keep == "null" else self._guided

    @property
    def text_images(self) -> list[int]:
        """The images whose text row runs."""
        return list(range(self.images)) if self.policy.keep == "text" else self._guided

    def rows(self) -> list[int]:
        """Which of the 2B rows run."""
        return [*self.null_images, *(self.images + image for image in self.text_images)]

    @torch.compiler.disable
    def completed(self, out: Tensor | None) -> Tensor:
        """The prediction of the rows that ran, (rows, ...), or None if none did -> of all, (2B, ...)."""
        if self.is_guided:
            assert out is not None
            self._learn(*out.chunk(2))
            return out
        guided = set(self._guided)
        others = [image for image in range(self.images) if image not in guided]
        known = None if self._memory is None else self._memory.extrapolate(others, self._u)
        if out is None:
            assert known is not None
            return known.transpose(0, 1).flatten(0, 1).to(self._dtype)

        null, text = out.split([len(self.null_images), len(self.text_images)])
        whole = out.new_empty(2, self.images, *out.shape[1:])
        whole[0, self.null_images], whole[1, self.text_images] = null, text
        if self._guided:
            self._learn(whole[0, self._guided], whole[1, self._guided])
        if self.policy.keep == "neither":
            assert known is not None
            whole[:, others] = known.transpose(0, 1).to(out.dtype)
        else:
            ran = whole[0 if self.policy.keep == "null" else 1, others]
            sign = 1 if self.policy.keep == "null" else -1
            other = ran if known is None else (ran + sign * known).to(out.dtype)
            whole[1 if self.policy.keep == "null" else 0, others] = other
        return whole.flatten(0, 1)

    def _images_to_guide(self) -> list[int]:
        if isinstance(self.policy, TextSchedule):
            guided = self.policy.uses_text(self._step, self._num_steps) or self._must_learn()
            return list(range(self.images)) if guided else []
        return [image for image in range(self.images) if self._due[image] <= self._step]

    def _must_learn(self) -> bool:
        """Whether a course that began late knows less than its policy extrapolates from, of all images alike."""
        return self._late and self._memory is not None and self._memory.known(0) <= self._memory.order

    def _learn(self, null: Tensor, text: Tensor) -> None:
        """Remember what the guided images' rows gave, and find each one's next guided step."""
        if self._memory is None:
            return
        self._dtype = null.dtype
        exact = torch.promote_types(null.dtype, torch.float32)  # half precision would round small differences
        null, text = null.to(exact), text.to(exact)
        seen = torch.stack([null, text], dim=1) if self.policy.keep == "neither" else text - null
        if self._measures:
            self._plan(seen)
        self._memory.remember(self._guided, self._u, seen)

    def _plan(self, seen: Tensor) -> None:
        assert isinstance(self.policy, Auto)
        assert self._memory is not None
        measurable = [n for n, image in enumerate(self._guided) if self._memory.known(image) > self.policy.order]
        gaps = dict.fromkeys(self._guided, 1)
        if measurable and self.policy.tol > 0:
            images = [self._guided[n] for n in measurable]
            error = self._memory.extrapolate(images, self._u) - seen[measurable]
            if self.policy.keep == "neither":
                error = error[:, 0] + self._scale * (error[:, 1] - error[:, 0])
            else:
                error = error * (self._scale if self.policy.keep == "null" else self._scale - 1)
            sizes = error.flatten(1).square().mean(1).sqrt().tolist()
            for image, size in zip(images, sizes, strict=True):
                step, u = self._latest[image]
                gaps[image] = self.policy.next_gap(self._step - step, size * abs(u - self._u))
        for image, gap in gaps.items():
            self._latest[image] = self._step, self._u
            self._due[image] = self.policy.due(self._step, gap, self._num_steps)
