"""What a pipeline cannot be asked, and has to be found out: all that is looked up behind its back stands here.

diffusers tells a hook on the denoiser the arguments of one call and nothing of the generation around it. Its pipelines
keep their settings in properties that are stale outside of a call (Stable Diffusion) or in local variables of
`__call__` (PixArt), loop over parts of their scheduler's list, hand the denoiser what they like of a timestep (a
thousandth of it, 1 minus that, one a token), and have no hooks of their own; a wrapper on the call would be a patch by
assignment, which users' pipelines are spared. So

`running`           looks for the pipeline's call on the stack, and asks its local variables: the loop's own timestep
                    tells the step, whatever is made of it;
`place_in_memory`   takes the place of a timestep in its list's memory for its position: it is exact where timesteps
                    repeat, and waits for no device;
`list_behind`       takes the list that a timestep is an element of from the memory behind it.

Each of them says None where there is nothing to be found, and who asks goes on by values or refuses in a sentence.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import unwrap_module

__all__ = ["Loop", "Running", "is_called_in", "list_behind", "place_in_memory", "running", "share_memory"]


@dataclass(frozen=True)
class Loop:
    """Where a loop over timesteps is.

    Attributes:
        timesteps: (N,), what it loops over.
        position: Of the timestep that it has come to.
        scheduler: The one whose list that is a part of, if any.
    """

    timesteps: torch.Tensor
    position: int
    scheduler: Any


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
    def is_guided(self) -> bool | None:
        """Whether it runs classifier-free guidance; None if it does not say."""
        if "do_classifier_free_guidance" in self.names:
            return bool(self.names["do_classifier_free_guidance"])
        said = getattr(self.pipe, "do_classifier_free_guidance", None)
        if said is None and self.guidance_scale is not None:
            return self.guidance_scale > 1
        return None if said is None else bool(said)

    @property
    def guidance_scale(self) -> float | None:
        """w as it is now: a callback may change it. Of several by other names the largest; None if there is none."""
        for name in ("true_cfg_scale", "guidance_scale"):
            scale = getattr(self.pipe, name, self.names.get(name))
            if isinstance(scale, (int, float)):
                return float(scale)
        others = (value for name, value in self.names.items() if name.endswith("guidance_scale"))
        return max((float(value) for value in others if isinstance(value, (int, float))), default=None)

    @property
    def timesteps(self) -> Any:
        """What it loops over: its scheduler's list or a part of it, if it has begun to."""
        return self.names.get("timesteps")

    @property
    def loop(self) -> Loop | None:
        """Where its loop is, if it has begun to and that can be told."""
        lists = list(self._lists())
        for t in self._timesteps():
            for timesteps in lists:
                position = place_in_memory(t, timesteps)
                if position is not None and 0 <= position < len(timesteps):
                    return Loop(timesteps, position, self._scheduler_of(timesteps))
        return None

    def _timesteps(self) -> Iterator[torch.Tensor]:
        """The loop's timestep: nearly all pipelines call it `t`."""
        names = sorted(self.names, key=lambda name: name != "t")
        return (t for name in names if isinstance(t := self.names[name], torch.Tensor) and t.ndim == 0)

    def _lists(self) -> Iterator[torch.Tensor]:
        """Lists that it may loop over, `timesteps` before its schedulers' own."""
        names = sorted(self.names, key=lambda name: name != "timesteps")
        values = (*(self.names[name] for name in names), *(s.timesteps for s in self._schedulers()))
        return (
            v for v in values if isinstance(v, torch.Tensor) and v.ndim == 1 and (v.stride() == (1,) or len(v) == 1)
        )

    def _schedulers(self) -> Iterator[Any]:
        parts = (*vars(self.pipe).values(), self.names.get("scheduler"))
        return (part for part in parts if isinstance(part, SchedulerMixin))

    def _scheduler_of(self, timesteps: torch.Tensor) -> Any:
        schedulers = list(self._schedulers())
        own = getattr(self.pipe, "scheduler", None)
        return next((s for s in schedulers if share_memory(timesteps, _tensor(s.timesteps))), own)


def _tensor(value: Any) -> torch.Tensor | None:
    return value if isinstance(value, torch.Tensor) else None


def running(module: torch.nn.Module) -> Running | None:
    """The innermost call in progress of a pipeline that has this module among its parts."""
    return _search(sys._getframe(1), module)


def is_called_in(thread: int, module: torch.nn.Module) -> bool:
    """Whether such a call is in progress in another thread."""
    frame = sys._current_frames().get(thread)
    return frame is not None and _search(frame, module) is not None


def _search(frame: FrameType | None, module: torch.nn.Module) -> Running | None:
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            names = frame.f_locals
            pipe = names.get("components", names.get("self"))  # blocks of a modular pipeline are given it
            if pipe is not None and not isinstance(pipe, torch.nn.Module) and _has(pipe, module):
                return Running(pipe, names)
        frame = frame.f_back
    return None


def _has(pipe: Any, module: torch.nn.Module) -> bool:
    parts = vars(pipe).values() if hasattr(pipe, "__dict__") else ()
    return any(isinstance(part, torch.nn.Module) and unwrap_module(part) is module for part in parts)


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
