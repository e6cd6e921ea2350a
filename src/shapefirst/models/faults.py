"""A model that could be loaded and cannot be run: its folder says what no check knew of, and diffusers or transformers
falls over it in the middle of a call."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from shapefirst.errors import ModelError, ShapefirstError, first_line

__all__ = ["faults_of"]

_LIBRARIES: Final = ("diffusers", "transformers")


@contextmanager
def faults_of(pipe: Any) -> Iterator[None]:
    """Within the block, what the code of a model's libraries raises becomes a sentence that names the model.

    What our own code raises, also within a hook that such a library calls, stays what it is.

    Raises:
        ModelError: With what the library said.
    """
    try:
        yield
    except ShapefirstError:
        raise
    except Exception as error:
        rooms = [
            frame.f_globals.get("__name__", "").split(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
        ]
        known = [room for room in rooms if room in ("shapefirst", *_LIBRARIES)]
        if not known or known[-1] not in _LIBRARIES:
            raise
        name = getattr(pipe, "config", {}).get("_name_or_path") or type(pipe).__name__
        raise ModelError(
            f"{name} was loaded, but cannot make pictures: {known[-1]} stopped with {type(error).__name__}: "
            f"{first_line(error)}."
        ) from error
