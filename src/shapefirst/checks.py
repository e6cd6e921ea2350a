"""What a sampling setting may be, for all who take one."""

from __future__ import annotations

from typing import Any, Final

from shapefirst.errors import ShapefirstError

__all__ = ["check_seed", "check_steps", "check_text"]

_SEEDS: Final = 2**63  # torch's are 64-bit; the sign is not worth the trouble


def check_seed(seed: int, images: int = 1) -> None:
    """Raise ShapefirstError unless torch takes the seeds ``seed``, ``seed + 1``, ... of so many images."""
    if not 0 <= seed <= _SEEDS - images:
        raise ShapefirstError(f"The seed must be from 0 to {_SEEDS - images}, not {seed}.")


def check_steps(steps: int, scheduler: Any) -> None:
    """Raise ShapefirstError unless a diffusers scheduler can divide its training timesteps into so many steps."""
    most = scheduler.config.num_train_timesteps
    if not 1 <= steps <= most:
        raise ShapefirstError(f"The number of steps must be from 1 to {most}, as the model was trained, not {steps}.")


def check_text(text: str, what: str) -> None:
    """Raise ShapefirstError if ``text`` holds bytes of a command line that are no UTF-8; ``what`` names it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ShapefirstError(f"{what} is not UTF-8 text: {text!a}; write it in UTF-8.") from error
