"""All that a denoiser's call gives, as one tensor, and back: predictions of pictures, of sound, in any container."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.guidance.rows import each_tensor

__all__ = ["Packing"]


@dataclass(frozen=True)
class Packing:
    """How the predictions of one output are laid side by side.

    Attributes:
        like: The output. What is no prediction in it (whole numbers, what has other rows) stays as it is.
        rows: Its rows, of each of which a prediction may have several entries; a list of as many equal tensors has one
            a row. None: the whole output is one row.
    """

    like: Any
    rows: int | None

    def pack(self, out: Any) -> torch.Tensor:
        """An output -> (rows, ...); a single prediction keeps its shape.

        Raises:
            UnsupportedPipelineError: There is none in it.
        """
        found: list[torch.Tensor] = []

        def see(tensor: torch.Tensor) -> torch.Tensor:
            found.append(tensor)
            return tensor

        self._each(out, see)
        if not found:
            raise UnsupportedPipelineError(
                f"The denoiser gave a {type(out).__name__}, in which there is no prediction that could be extrapolated."
            )
        if len(found) == 1:
            return found[0]
        dtype = found[0].dtype
        for tensor in found[1:]:
            dtype = torch.promote_types(dtype, tensor.dtype)
        return torch.cat([tensor.reshape(len(tensor), -1).to(dtype) for tensor in found], dim=1)

    def unpack(self, packed: torch.Tensor) -> Any:
        """The way back, for any number of rows."""
        at = 0

        def take(like: torch.Tensor) -> torch.Tensor:
            nonlocal at
            shape, start = like.shape[1:], at
            at += shape.numel()
            part = packed if packed.shape[1:] == shape else packed[:, start:at]
            return part.reshape(len(packed), *shape).to(like.dtype)

        return self._each(self.like, take)

    def _each(self, out: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        """`out` with every prediction changed, seen as (rows, ...)."""

        def of_tensor(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_complex():
                parts = of_tensor(torch.view_as_real(tensor))
                return torch.view_as_complex(parts.clone(memory_format=torch.contiguous_format))
            if not tensor.is_floating_point():
                return tensor
            if self.rows is None:
                return change(tensor[None])[0]
            each, rest = divmod(len(tensor), self.rows) if tensor.ndim else (0, 1)
            if rest or not each:
                return tensor
            return change(tensor) if each == 1 else change(tensor.unflatten(0, (self.rows, each))).flatten(0, 1)

        return each_tensor(out, of_tensor, stacked=self.rows or 0)
