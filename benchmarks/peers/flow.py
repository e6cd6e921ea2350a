"""Pocket read as a model of flow matching, since no model of that kind is small enough to be measured here.

The same network in other coordinates: with x = (1 - s) x0 + s eps of a flow, the U-Net is asked where it was trained to
be, at the timestep of equal sigma / alpha, for x in its own scale, and what it answers becomes a velocity. Trajectories
between the same noise levels are its own ones; where steps lie, and what solvers and methods see, is as with Stable
Diffusion 3. Beyond the most noise of its training the U-Net answers as of that, as it does where other samplers begin.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

__all__ = ["VelocityUNet", "as_flow"]


class VelocityUNet(UNet2DConditionModel):
    """A U-Net that predicts noise, asked for the velocity eps - x0 at timesteps 1000 s.

    Attributes:
        ratios: (T,), sigma / alpha of the schedule that it was trained with.
    """

    ratios: Tensor

    def forward(self, sample: Tensor, timestep: Any, *args: Any, return_dict: bool = True, **given: Any) -> Any:
        s, ratio = self._noise(sample, timestep)
        above = torch.searchsorted(self.ratios, ratio.reshape(-1)).reshape(s.shape).clamp(1, len(self.ratios) - 1)
        low, high = self.ratios[above - 1], self.ratios[above]
        t = above - 1 + (ratio - low) / (high - low)
        eps = super().forward(_scaled(sample, s), t.to(sample.dtype), *args, return_dict=False, **given)[0]
        velocity = self.velocity(sample, timestep, eps)
        return SimpleNamespace(sample=velocity) if return_dict else (velocity,)

    def velocity(self, sample: Tensor, timestep: Any, eps: Tensor) -> Tensor:
        """What the network's own output for a flow's x, (B, C, H, W), means there."""
        s, ratio = self._noise(sample, timestep)
        x0 = _of_rows((1 + ratio**2).sqrt(), sample) * _scaled(sample, s) - _of_rows(ratio, sample) * eps
        return (sample - x0) / _of_rows(s, sample)

    def _noise(self, sample: Tensor, timestep: Any) -> tuple[Tensor, Tensor]:
        """s, and sigma / alpha there as far as the network knows it."""
        s = torch.as_tensor(timestep, dtype=torch.float64, device=sample.device) / 1000
        return s, (s / (1 - s)).clamp(self.ratios[0], self.ratios[-1])


def _scaled(x: Tensor, s: Tensor) -> Tensor:
    """A flow's x in the scale of alpha x0 + sigma eps with alpha^2 + sigma^2 = 1."""
    return x / _of_rows(((1 - s) ** 2 + s**2).sqrt(), x)


def _of_rows(number: Tensor, like: Tensor) -> Tensor:
    return number.to(like.dtype).reshape(-1, 1, 1, 1)


def _as_it_is(sample: Tensor, timestep: Any = None) -> Tensor:
    return sample


def as_flow(pipe: Any, kind: str, options: Mapping[str, Any]) -> Any:
    """A pipeline of Stable Diffusion's kind with the same weights and a flow's sampler: diffusers' class, and options.

    That pipeline asks its scheduler for two things that those of flows alone do not have, and that change nothing.
    """
    flow = copy.copy(pipe)
    unet = VelocityUNet.from_config(pipe.unet.config)
    unet.load_state_dict(pipe.unet.state_dict(), assign=True)
    unet.ratios = (1 / pipe.scheduler.alphas_cumprod.double() - 1).sqrt()
    flow.unet = unet.eval().requires_grad_(False)
    flow.scheduler = getattr(diffusers, kind)(**options)
    flow.scheduler.init_noise_sigma = 1.0
    flow.scheduler.scale_model_input = _as_it_is
    return flow
