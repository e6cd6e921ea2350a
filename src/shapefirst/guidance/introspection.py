"""What a pipeline cannot be asked, and has to be found out: all that is looked up behind its back stands here.

diffusers tells a hook on the denoiser the arguments of one call and nothing of the generation around it. Its pipelines
keep their settings in properties that are stale outside of a call (Stable Diffusion) or in local variables of
`__call__` (PixArt), loop over parts of their scheduler's list, hand the denoiser what they like of a timestep (a
thousandth of it, 1 minus that, one a token), and have no hooks of their own; a wrapper on the call would be a patch by
assignment, which users' pipelines are spared. So

`running`           looks for the pipeline's call on the stack, and asks its local variables and those of its helper
                    methods: the loop's own timestep tells the step, whatever is made of it;
`place_in_memory`   takes the place of a timestep in its list's memory for its position: it is exact where timesteps
                    repeat, and waits for no device;
`list_behind`       takes the list that a timestep is an element of from the memory behind it.

Each of them says None where there is nothing to be found, and who asks goes on by values or refuses in a sentence.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import unwrap_module

__all__ = [
    "Loop",
    "Running",
    "callers",
    "is_called_in",
    "list_behind",
    "looped_in",
    "made_of",
    "place_in_memory",
    "place_of_sigma",
    "running",
    "share_memory",
    "sigmas_beside",
]


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
        within: What runs in it, down to the denoiser's call, the outermost first.
    """

    pipe: Any
    names: Mapping[str, Any]
    within: Sequence[FrameType] = ()

    @property
    def is_guided(self) -> bool | None:
        """Whether it runs classifier-free guidance, in this step if it says that; None if it does not say."""
        for name in ("apply_cfg", "do_true_cfg", "do_classifier_free_guidance"):
            if name in self.names:
                return bool(self.names[name])
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
        return looped_in(self.names)

    def loop(self, given: Any) -> Loop | None:
        """Where its loop is, if it has begun to and that can be told; `given` is what the denoiser is of the time."""
        found = self._loop_in(self.names, given)
        frames = iter(self.within)
        while found is None and (frame := next(frames, None)) is not None:
            found = self._loop_in(frame.f_locals, given)
        return found

    def _loop_in(self, names: Mapping[str, Any], given: Any) -> Loop | None:
        # Nearly all pipelines loop so over their scheduler's list, and are found without a search.
        variable, looped, own_list = names.get("t"), looped_in(names), getattr(self._scheduler, "timesteps", None)
        if _is_list(looped) and _is_list(own_list) and share_memory(looped, own_list):
            position = place_in_memory(variable, looped)
            if position is not None and 0 <= position < len(looped):
                return Loop(looped, position, self._scheduler)
        schedulers = [part for part in vars(self.pipe).values() if isinstance(part, SchedulerMixin)]
        if isinstance(names.get("scheduler"), SchedulerMixin):
            schedulers.append(names["scheduler"])
        own = (v for v in names.values() if _is_list(v) and len(v) > 1)  # one may be one image's timestep
        others = (looped, *own, *(s.timesteps for s in schedulers), *vars(self.pipe).values())
        lists = [value for value in others if _is_list(value)]
        for t in (variable, given, *names.values()):
            if not isinstance(t, torch.Tensor) or (t.ndim and t is not given):
                continue
            for timesteps in lists:
                position = place_in_memory(t, timesteps)
                if position is None or not 0 <= position < len(timesteps):
                    continue
                scheduler = next((s for s in schedulers if share_memory(timesteps, s.timesteps)), None)
                # Any list may stand beside that of the timesteps.
                other = any(share_memory(timesteps, getattr(s, "sigmas", None)) for s in schedulers)
                if scheduler is not None or timesteps is looped or (not other and _tells(t, given, self._scheduler)):
                    return Loop(timesteps, position, self._scheduler if scheduler is None else scheduler)
            for scheduler in schedulers:
                if (position := place_of_sigma(t, scheduler)) is not None and _tells(t, given, scheduler):
                    return Loop(scheduler.timesteps, position, scheduler)
        return None

    @property
    def _scheduler(self) -> Any:
        return getattr(self.pipe, "scheduler", None)


def _is_list(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 1 and (value.stride() == (1,) or len(value) == 1)


def _tells(t: torch.Tensor, given: Any, scheduler: Any) -> bool:
    """Whether a list's entry `t` is what the denoiser is given, or what that is made of."""
    if not isinstance(given, (int, float, torch.Tensor)):
        return False
    value = float(torch.as_tensor(given).max())
    return any(math.isclose(float(t), made, rel_tol=1e-3) for made in (value, *made_of(value, scheduler)))


def made_of(t: float, scheduler: Any) -> tuple[float, ...]:
    """The timesteps that `t` may be a share of the training's of, or 1 minus such a one."""
    whole = getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)
    return (t * whole, (1 - t) * whole) if whole and 0 <= t <= 1 else ()


def looped_in(names: Mapping[str, Any]) -> Any:
    """What a loop is over by the local variables of its frame, or by those of a modular pipeline's block."""
    return names.get("timesteps", getattr(names.get("block_state"), "timesteps", None))


def running(module: torch.nn.Module) -> Running | None:
    """The innermost call in progress of a pipeline that has this module among its parts."""
    return _search(callers(), module)


def is_called_in(thread: int, module: torch.nn.Module) -> bool:
    """Whether such a call is in progress in another thread."""
    frame = sys._current_frames().get(thread)
    return frame is not None and _search(callers(frame), module) is not None


def callers(frame: FrameType | None = None) -> Iterator[FrameType]:
    """A frame, by default that of who calls, and all that it was called by, the innermost first."""
    frame = sys._getframe(2) if frame is None else frame
    while frame is not None:
        yield frame
        frame = frame.f_back


def _search(frames: Iterator[FrameType], module: torch.nn.Module) -> Running | None:
    within: list[FrameType] = []
    for frame in frames:
        if frame.f_code.co_name == "__call__":
            names = frame.f_locals
            pipe = names.get("components", names.get("self"))  # blocks of a modular pipeline are given it
            if pipe is not None and not isinstance(pipe, torch.nn.Module) and _has(pipe, module):
                return Running(pipe, names, within[::-1])
        within.append(frame)
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
    if share_memory(t, listed) or (entries == 1 and (t._base is None or t._base.ndim == 0)):
        return None
    return t.detach().as_strided((entries,), (1,), 0)


def place_of_sigma(t: torch.Tensor, scheduler: Any) -> int | None:
    """The position in a scheduler's list of timesteps that has the sigma which `t` is an element of the list of."""
    sigmas = sigmas_beside(scheduler)
    position = None if sigmas is None else place_in_memory(t, sigmas)
    return position if position is not None and 0 <= position < len(scheduler.timesteps) else None


def sigmas_beside(scheduler: Any) -> torch.Tensor | None:
    """The sigma of each entry of a scheduler's list of timesteps, if it tells them."""
    sigmas, timesteps = getattr(scheduler, "sigmas", None), scheduler.timesteps
    if not isinstance(sigmas, torch.Tensor) or len(sigmas) - len(timesteps) not in (0, 1):
        return None
    return sigmas[: len(timesteps)]


def share_memory(a: torch.Tensor, b: Any) -> bool:
    """Whether two tensors are views of one memory."""
    return isinstance(b, torch.Tensor) and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
