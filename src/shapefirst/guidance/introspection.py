"""What a pipeline cannot be asked, and has to be found out: all that is looked up behind its back stands here.

diffusers tells a hook on the denoiser the arguments of one call and nothing of the generation around it. Its pipelines
keep their settings in properties that are stale outside of a call (Stable Diffusion) or in local variables of
`__call__` (PixArt), loop over parts of their scheduler's list, and have no hooks of their own; a wrapper on the call
would be a patch by assignment, which users' pipelines are spared. So

`running`           looks for the pipeline's call on the stack, and asks its local variables;
`place_in_memory`   takes the place of a timestep in its list's memory for its position: it is exact where timesteps
                    repeat, and waits for no device;
`list_behind`       takes the list that a timestep is an element of from the memory behind it.

Each of them says None where there is nothing to be found, and who asks goes on by values or refuses in a sentence.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import unwrap_module

__all__ = ["Running", "list_behind", "place_in_memory", "running", "share_memory"]

#: Where pipelines have their denoiser.
PARTS = ("unet", "transformer")


@dataclass(frozen=True)
class Running:
    """A pipeline's call in progress.

    Attributes:
        pipe: The pipeline: the one that a block was entered for, or another one that shares its denoiser.
        names: The local variables of its `__call__`.
    """

    pipe: Any
    names: Mapping[str, Any]

    @property
    def is_guided(self) -> bool:
        """Whether it runs classifier-free guidance."""
        if "do_classifier_free_guidance" in self.names:
            return bool(self.names["do_classifier_free_guidance"])
        return bool(getattr(self.pipe, "do_classifier_free_guidance", self.names["guidance_scale"] > 1))

    @property
    def guidance_scale(self) -> float:
        """w as it is now: a callback may change it."""
        return float(getattr(self.pipe, "guidance_scale", self.names["guidance_scale"]))

    @property
    def timesteps(self) -> Any:
        """What it loops over: its scheduler's list or a part of it, if it has begun to."""
        return self.names.get("timesteps")


def running(module: Any, parts: Sequence[str] = PARTS) -> Running | None:
    """The innermost call in progress of a pipeline that has this module among these parts: its denoiser."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            names = frame.f_locals
            pipe = names.get("self")
            if "guidance_scale" in names and any(_part(pipe, name) is module for name in parts):
                return Running(pipe, names)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _part(pipe: Any, name: str) -> Any:
    part = getattr(pipe, name, None)
    return unwrap_module(part) if isinstance(part, torch.nn.Module) else None


def place_in_memory(t: Any, timesteps: torch.Tensor) -> int | None:
    """The position in a list of the element that `t` is, or an expanded view of; None if it is none, or a copy."""
    if (
        isinstance(t, torch.Tensor)
        and t.device == timesteps.device
        and t.dtype == timesteps.dtype
        and all(stride == 0 or size == 1 for size, stride in zip(t.shape, t.stride(), strict=True))
        and share_memory(t, timesteps)
    ):
        return int(t.storage_offset() - timesteps.storage_offset())
    return None


def list_behind(t: Any, listed: torch.Tensor | None) -> torch.Tensor | None:
    """The list that `t` is an element of, where that is another one than `listed`; None if it cannot be told.

    A loop of one's own may sample with a copy of the pipeline's scheduler, which has a list of its own.
    """
    if not isinstance(t, torch.Tensor) or any(n > 1 and s for n, s in zip(t.shape, t.stride(), strict=True)):
        return None
    entries = t.untyped_storage().nbytes() // t.element_size()
    if share_memory(t, listed) or (entries == 1 and t._base is None):
        return None
    return t.detach().as_strided((entries,), (1,), 0)


def share_memory(a: torch.Tensor, b: torch.Tensor | None) -> bool:
    """Whether two tensors are views of one memory."""
    return b is not None and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
