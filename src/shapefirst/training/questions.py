"""What a denoiser is asked beside its own task while it learns: which objects, with which attributes, stand where.

The squared error of noise says next to nothing about what is whose: a yellow umbrella above a purple duck costs little
more than the other way round, and only at noise levels that count little. Small heads on features within the network
have to answer it from the noisy latents and the prompt, so that the features come to hold it. They are thrown away
afterwards; the network and its pictures' law are what they were. It is representation alignment (Yu et al. 2024, arXiv
2410.06940) to the labels of the world instead of the features of an image encoder.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from shapefirst.measure.judge import SIZES

#: Features are averaged over a grid of this many by this many places.
PLACES = 4
HIDDEN = 256


class Questioned(nn.Module):
    """A denoiser with a head on each of the layers that are asked; every head answers the judge's four questions."""

    def __init__(self, denoiser: Any) -> None:
        super().__init__()
        self.denoiser = denoiser
        layers = _asked(denoiser)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(width * PLACES**2, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, sum(SIZES)))
            for _, width in layers
        )
        self._features: list[Tensor] = []
        self._hooks = [layer.register_forward_hook(self._see) for layer, _ in layers]

    def _see(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self._features.append(output)

    def answers(self) -> list[tuple[Tensor, ...]]:
        """Each head's logits of (noun, attribute, second noun or none, second attribute or none) for the last call."""
        features, self._features = self._features, []
        return [
            head(F.adaptive_avg_pool2d(_as_map(x), PLACES)).split(SIZES, -1)
            for head, x in zip(self.heads, features, strict=True)
        ]

    def withdraw(self) -> None:
        """Leave the denoiser as any other one."""
        for hook in self._hooks:
            hook.remove()


def _asked(denoiser: Any) -> list[tuple[nn.Module, int]]:
    """The layers that are asked, in the order of their calls, and how many channels they give."""
    if isinstance(denoiser, PixArtTransformer2DModel):
        blocks, heads = denoiser.transformer_blocks, denoiser.config.num_attention_heads
        return [(blocks[len(blocks) // 2], heads * denoiser.config.attention_head_dim)]
    widths = denoiser.config.block_out_channels
    # Not the last block: its features are of the noise, and a head there had learned next to nothing in 300 steps.
    return [(denoiser.mid_block, widths[-1]), (denoiser.up_blocks[-2], widths[1])]


def _as_map(features: Tensor) -> Tensor:
    """(b, channels, h, w) of a convolution's features, or of a transformer's (b, h * w, channels) on a square."""
    if features.dim() == 4:
        return features
    side = round(features.shape[1] ** 0.5)
    return features.transpose(1, 2).unflatten(-1, (side, side))
