"""The libraries that load models, without their advice and bars on stderr, and whatever their version."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["in_format", "quietly"]


def in_format(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The option that says a format of weights to diffusers, which calls it ``dtype`` since 0.40."""
    from diffusers import __version__

    before = [int(part) for part in __version__.split(".")[:2]] < [0, 40]
    return {"torch_dtype" if before else "dtype": dtype}


@contextmanager
def quietly(*, bars: bool = False) -> Iterator[None]:
    """Without the loaders' advice (and bars) on stderr; the caller's own settings are put back."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    verbosities = [(room, room.get_verbosity()) for room in (diffusers_logging, transformers_logging, hub_logging)]
    shown = [room for room in (diffusers_logging, transformers_logging) if room.is_progress_bar_enabled()]
    hub_is_silent = are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for room, _ in verbosities:
            room.set_verbosity(logging.CRITICAL)
        if not bars:
            for room in shown:
                room.disable_progress_bar()  # transformers' turns the hub's bars off and on with its own
        try:
            yield
        finally:
            for room, verbosity in verbosities:
                room.set_verbosity(verbosity)
            for room in shown:
                room.enable_progress_bar()
            if hub_is_silent:
                disable_progress_bars()
