"""Where a pipeline has its denoisers, and what runs beside them.

A denoiser is a part that is given a timestep. A family names its own where that would find too much.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import unwrap_module

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families import family_of
from shapefirst.families.arguments import TIMES, parameters_of

__all__ = ["controls_of", "denoiser_of", "denoisers_of", "scheduler_of"]


def denoisers_of(pipe: Any) -> dict[str, torch.nn.Module]:
    """The pipeline's denoisers by name, as it calls them: torch.compile's wrappers where it has such.

    Raises:
        UnsupportedPipelineError: It has none.
    """
    family = family_of(pipe)
    parts = {name: part for name, part in vars(pipe).items() if isinstance(part, torch.nn.Module)}
    if family.denoisers:
        found = {name: parts[name] for name in family.denoisers if name in parts}
    else:
        found = {name: part for name, part in parts.items() if _is_denoiser(part) and not _is_control(name, part)}
    if not found:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} has no part that is given a timestep, so there is nothing to skip a step of."
        )
    return found


def denoiser_of(pipe: Any) -> Any:
    """The only denoiser of a pipeline, itself.

    Raises:
        UnsupportedPipelineError: It has none or several.
    """
    found = denoisers_of(pipe)
    if len(found) > 1:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} has {len(found)} denoisers ({', '.join(found)}), of which only guide() takes care."
        )
    (only,) = found.values()
    return unwrap_module(only)


def scheduler_of(pipe: Any) -> Any:
    """The scheduler whose list of timesteps a pipeline loops over.

    Raises:
        UnsupportedPipelineError: It has none.
    """
    parts = (getattr(pipe, "scheduler", None), *vars(pipe).values())
    found = next((part for part in parts if isinstance(part, SchedulerMixin)), parts[0])
    if found is None:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} has no scheduler, whose list of timesteps tells one step from another."
        )
    return found


def controls_of(pipe: Any) -> list[torch.nn.Module]:
    """The parts of a pipeline that run in every step only to feed its denoiser."""
    parts = (getattr(pipe, name, None) for name in family_of(pipe).beside)
    return [part for part in parts if isinstance(part, torch.nn.Module)]


def _is_denoiser(part: torch.nn.Module) -> bool:
    return not set(TIMES).isdisjoint(parameters_of(unwrap_module(part)))


def _is_control(name: str, part: torch.nn.Module) -> bool:
    kind = type(unwrap_module(part)).__name__
    return "control" in name.lower() or ("ControlNet" in kind and not kind.startswith("UNet"))  # ControlNet-XS is both
