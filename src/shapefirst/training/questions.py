"""What a denoiser is asked beside its own task while it learns: which objects, with which attributes, stand where.

The squared error of noise says next to nothing about what is whose: a yellow umbrella above a purple duck costs little
more than the other way round, and only at noise levels that count little. Small heads on features within the network
have to answer it from the noisy latents and the prompt, so that the features come to hold it. They are thrown away
afterwards; the network and its pictures' law are what they were. It is representation alignment (Yu et al. 2024, arXiv
2410.06940) to the labels of the world instead of the features of an image encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from shapefirst.measure.judge import SIZES
from shapefirst.training.judge import answered
from shapefirst.world.renders import CELLS
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS

HIDDEN = 256


@dataclass(frozen=True)
class Contents:
    """What n pictures show, as `world.renders.Renders` has it: ``labels`` (n, 4) and ``where`` (n, CELLS, CELLS)."""

    labels: Tensor
    where: Tensor

    def __getitem__(self, index: Tensor) -> Contents:
        return Contents(self.labels[index], self.where[index])

    def to(self, device: torch.device) -> Contents:
        return Contents(self.labels.to(device), self.where.to(device))

    def in_cells(self) -> tuple[Tensor, Tensor]:
        """(n, CELLS**2) int64 noun and attribute of the object that covers a cell, one class more for none."""
        nouns, attributes = self.labels[:, 0::2], self.labels[:, 1::2]
        none = torch.ones_like(nouns[:, :1])
        at = self.where.flatten(1).long()
        return (
            torch.cat([none * len(NOUNS), nouns], 1).gather(1, at),
            torch.cat([none * len(ATTRIBUTES), attributes], 1).gather(1, at),
        )


class OfAll(nn.Sequential):
    """The judge's four questions of the whole picture, answered from features (b, width, h, w)."""

    #: What its answers count beside the error of the noise.
    WEIGHT = 0.015
    #: Features are averaged over a grid of this many by this many places.
    PLACES = 4

    def __init__(self, width: int) -> None:
        layers = nn.Linear(width * self.PLACES**2, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, sum(SIZES))
        super().__init__(nn.AdaptiveAvgPool2d(self.PLACES), nn.Flatten(), *layers)

    def graded(self, features: Tensor, contents: Contents) -> tuple[Tensor, Tensor]:
        """The sum of the questions' cross-entropies, and the share of pictures of which all answers are right."""
        return answered(self(features).split(SIZES, -1), contents.labels)


class OfCells(nn.Sequential):
    """Which noun and which attribute is in each cell of the picture, answered from a square of patches' features."""

    WEIGHT = 0.4
    CLASSES = (len(NOUNS) + 1, len(ATTRIBUTES) + 1)

    def __init__(self, width: int, patches: int) -> None:
        self.side = CELLS // patches  # of a patch, in cells
        layers = nn.Conv2d(width, HIDDEN, 1), nn.SiLU(), nn.Conv2d(HIDDEN, sum(self.CLASSES) * self.side**2, 1)
        super().__init__(*layers, nn.PixelShuffle(self.side), nn.Flatten(2))

    def graded(self, features: Tensor, contents: Contents) -> tuple[Tensor, Tensor]:
        """The sum of both cross-entropies, and the share of cells with an object of which both answers are right."""
        answers, known = self(features).split(self.CLASSES, 1), contents.in_cells()
        error = torch.stack([F.cross_entropy(a.float(), k) for a, k in zip(answers, known, strict=True)]).sum()
        right = torch.stack([a.argmax(1) == k for a, k in zip(answers, known, strict=True)]).all(0)
        return error, right[contents.where.flatten(1) > 0].float().mean()


class Questioned(nn.Module):
    """A denoiser with a head on each of the layers that are asked."""

    def __init__(self, denoiser: Any) -> None:
        super().__init__()
        self.denoiser = denoiser
        layers, heads = zip(*_asked(denoiser), strict=True)
        self.heads = nn.ModuleList(heads)
        self._features: list[Tensor] = []
        self._hooks = [layer.register_forward_hook(self._see) for layer in layers]

    def _see(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self._features.append(output)

    def graded(self, contents: Contents) -> tuple[Tensor, Tensor]:
        """What the answers of the last call count beside the error of the noise, and the share that is right."""
        features, self._features = self._features, []
        grades = [
            head.graded(_as_map(x), contents)  # type: ignore[operator]
            for head, x in zip(self.heads, features, strict=True)
        ]
        errors = torch.stack([error * head.WEIGHT for head, (error, _) in zip(self.heads, grades, strict=True)])
        return errors.sum(), torch.stack([right for _, right in grades]).mean()

    def withdraw(self) -> None:
        """Leave the denoiser as any other one."""
        for hook in self._hooks:
            hook.remove()


def _asked(denoiser: Any) -> list[tuple[nn.Module, OfAll | OfCells]]:
    """The layers that are asked, in the order of their calls, each with its head."""
    if isinstance(denoiser, PixArtTransformer2DModel):
        blocks, config = denoiser.transformer_blocks, denoiser.config
        width, patches = config.num_attention_heads * config.attention_head_dim, config.sample_size // config.patch_size
        return [(blocks[len(blocks) // 2], OfCells(width, patches))]
    widths = denoiser.config.block_out_channels
    # Not the last block: its features are of the noise, and a head there had learned next to nothing in 300 steps.
    return [(denoiser.mid_block, OfAll(widths[-1])), (denoiser.up_blocks[-2], OfAll(widths[1]))]


def _as_map(features: Tensor) -> Tensor:
    """(b, channels, h, w) of a convolution's features, or of a transformer's (b, h * w, channels) on a square."""
    if features.dim() == 4:
        return features
    side = round(features.shape[1] ** 0.5)
    return features.transpose(1, 2).unflatten(-1, (side, side))
