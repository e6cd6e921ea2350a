"""Where a pipeline has its denoisers, and what runs beside them.

A denoiser is a part that is given a timestep. A family names its own where that would find too much.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import unwrap_module

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families import Family, family_of
from shapefirst.families.arguments import TIMES, parameters_of

__all__ = [
    "controls_of",
    "denoiser_of",
    "denoisers_among",
    "denoisers_of",
    "has_guider",
    "networks_of_class",
    "own_sides",
    "own_size",
    "scheduler_of",
    "without_denoiser",
]


def denoisers_of(pipe: Any) -> dict[str, torch.nn.Module]:
    """The pipeline's denoisers by name, as it calls them: torch.compile's wrappers where it has such.

    Raises:
        UnsupportedPipelineError: It has none.
    """
    parts = {name: part for name, part in getattr(pipe, "__dict__", {}).items() if isinstance(part, torch.nn.Module)}
    takes = {name: parameters_of(unwrap_module(part)) for name, part in parts.items()}
    kinds = {name: type(unwrap_module(part)) for name, part in parts.items()}
    found = {name: parts[name] for name in denoisers_among(family_of(pipe), kinds, takes)}
    if not found:
        raise UnsupportedPipelineError(without_denoiser(type(pipe).__name__))
    return found


def denoisers_among(
    family: Family, kinds: Mapping[str, type], takes: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """The names of the denoisers among a pipeline's parts.

    Args:
        family: The pipeline's.
        kinds: Name of a part -> its class.
        takes: And its arguments, by default those of the class.
    """
    if family.denoisers:
        return tuple(name for name in family.denoisers if name in kinds)
    if takes is None:
        takes = {n: list(inspect.signature(k.forward).parameters) for n, k in kinds.items() if hasattr(k, "forward")}
    timed = (name for name, arguments in takes.items() if not set(TIMES).isdisjoint(arguments))
    return tuple(name for name in timed if not _is_control(name, kinds[name]))


def without_denoiser(class_name: str) -> str:
    """What is said of a pipeline that has none."""
    return f"{class_name} has no part that is given a timestep, so there is nothing to skip a step of."


def networks_of_class(pipeline_class: Any) -> dict[str, type]:
    """The networks that a class of pipelines takes, name -> class, as far as its code says which."""
    found = {name: next(filter(_is_network, kinds), None) for name, kinds in _parts_of_class(pipeline_class).items()}
    return {name: kind for name, kind in found.items() if kind is not None}


def has_guider(pipeline_class: Any) -> bool:
    """Whether a class is one of Modular Diffusers' that is guided by what it calls a guider."""
    return "guider" in _parts_of_class(pipeline_class)


def _parts_of_class(pipeline_class: Any) -> dict[str, tuple[Any, ...]]:
    """The parts that a class of pipelines takes, and what each may be."""
    if not issubclass(pipeline_class, diffusers.ModularPipeline):
        return dict(pipeline_class._get_signature_types())
    blocks = getattr(diffusers, pipeline_class.default_blocks_name or "", None)
    return {} if blocks is None else {part.name: (part.type_hint,) for part in blocks().expected_components}


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


def _is_network(kind: Any) -> bool:
    # transformers' own choosers are no networks.
    return inspect.isclass(kind) and (issubclass(kind, torch.nn.Module) or kind.__name__.startswith("AutoModel"))


def _is_control(name: str, kind: type) -> bool:
    is_net = "ControlNet" in kind.__name__ and not kind.__name__.startswith("UNet")  # ControlNet-XS is both
    return is_net or "control" in name.lower()


def own_size(pipe: Any) -> dict[str, Any]:
    """The argument by which a call makes images of the model's own size: PixArt would look for the nearest it knows."""
    has_bins = "use_resolution_binning" in inspect.signature(pipe.__call__).parameters
    return {"use_resolution_binning": False} if has_bins else {}


def own_sides(pipe: Any) -> dict[str, int]:
    """Height and width in pixels of the images that the model was made for; {} where it does not tell.

    Many pipelines go by both sides or by neither: who gives one of them has to give the other.
    """
    size = getattr(unwrap_module(next(iter(denoisers_of(pipe).values()))), "config", {}).get("sample_size")
    sides = [size, size] if isinstance(size, int) else list(size or ())
    factor = getattr(pipe, "vae_scale_factor", None)
    if len(sides) != 2 or factor is None:
        return {}
    return {name: side * factor for name, side in zip(("height", "width"), sides, strict=True)}
