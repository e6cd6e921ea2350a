"""What tiny pipelines are given in the place of prompts and pictures, and networks that listen to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tiny import normal

__all__ = ["loud", "masks", "null", "picture", "text"]


def text(numbers: Sequence[int], *shape: int, kind: int = 0) -> torch.Tensor:
    """(images, *shape): embeddings of each image's prompt; another kind is what another encoder says of it."""
    return torch.cat([normal(1000 + 100 * kind + number, *shape) for number in numbers])


def null(numbers: Sequence[int], *shape: int, kind: int = 0) -> torch.Tensor:
    """(images, *shape): embeddings of each image's negative prompt."""
    return torch.cat([normal(5000 + 100 * kind + number, *shape) for number in numbers])


def masks(numbers: Sequence[int], length: int) -> torch.Tensor:
    """(images, length): 1 for the prompts' tokens, of which every second image has one fewer, and 0 for padding."""
    return torch.tensor([[1] * (length - number % 2) + [0] * (number % 2) for number in numbers])


def picture(numbers: Sequence[int], *shape: int) -> torch.Tensor:
    """(images, *shape): pictures, or videos, in [0, 1]."""
    return torch.cat([normal(9000 + number, *shape).sigmoid() for number in numbers])


def loud(network: Any, gain: float = 2.0) -> Any:
    """The network with larger matrices, and with noise where it begins with zeros.

    A random one hardly listens to its prompt, and what feeds another (a ControlNet) begins by saying nothing.
    """
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.mul_(gain) if weight.any() else weight.normal_(std=0.1)
    return network
