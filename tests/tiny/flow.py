"""What the tiny pipelines of flow matching share: how images are given, solvers, autoencoders, ears for the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch

from tiny import normal, shared

__all__ = [
    "ALONE",
    "TWO_CALLS",
    "Nothing",
    "autoencoder",
    "both",
    "each",
    "flow_scheduler",
    "listens",
    "masks",
    "parts",
    "pictures",
    "texts",
    "told",
]

#: What rows say of pipelines with one call a branch, the text's first, and of those whose guidance is distilled or off.
TWO_CALLS: Any = {"way": "two calls", "branches": ("text", "null"), "calls": 2}
ALONE: Any = {"way": "whole calls", "branches": ("text",)}


def parts(*more_encoders: str, **more: Any) -> dict[str, Any]:
    """A pipeline's parts: no autoencoder, tokenizers and text encoders, where the call takes embeddings."""
    names = (f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", *more_encoders))
    return {**dict.fromkeys(("vae", *names)), "scheduler": flow_scheduler(), **more}


def each(numbers: Sequence[int], *shape: int, at: int = 0, scale: float = 1.0) -> torch.Tensor:
    """What every image is given, (images, *shape); ``at`` tells its kinds apart."""
    return torch.cat([normal(number + at, *shape, scale=scale) for number in numbers])


def pictures(numbers: Sequence[int], *shape: int, at: int = 500) -> torch.Tensor:
    """Pictures (or videos) from 0 to 1, (images, *shape)."""
    return each(numbers, *shape, at=at, scale=2.0).sigmoid()


def both(numbers: Sequence[int]) -> dict[str, Any]:
    """Embeddings of three tokens of a prompt and of a null prompt, (images, 3, 8), that differ by much."""
    null = each(numbers, 3, 8, at=200, scale=3)
    return {"prompt_embeds": each(numbers, 3, 8, scale=3), "negative_prompt_embeds": null}


def texts(given: dict[str, Any]) -> dict[str, Any]:
    """What is given of the prompts alone."""
    return {name: value for name, value in given.items() if not name.startswith("negative")}


def masks(numbers: Sequence[int], name: str) -> dict[str, torch.Tensor]:
    """The last token of a prompt is padding, and so are the last two of a null prompt."""
    text, null = torch.tensor([[1, 1, 0]] * len(numbers)), torch.tensor([[1, 0, 0]] * len(numbers))
    return {name: text, f"negative_{name}": null}


def flow_scheduler(**options: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


@shared
def autoencoder(latent_channels: int = 16, blocks: int = 1) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(4,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        norm_num_groups=1,
        latent_channels=latent_channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


class Nothing(torch.nn.Module):
    """Stands where a pipeline asks a part for no more than its kind of numbers and its place."""

    dtype, device = torch.float32, torch.device("cpu")


def told(prompts: Sequence[str], *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Embeddings of prompts that are numbers, for pipelines that take prompts alone: in their encoder's place."""
    return torch.cat([normal(int(prompt), *shape, scale=scale) for prompt in prompts])


def listens(model: Any, *parts: str, times: float = 4.0) -> Any:
    """The model with the weights of these parts scaled: a random one hardly hears its prompt, a trained one does."""
    with torch.no_grad():
        scaled = [
            weight.mul_(times) for name, weight in model.named_parameters() if any(part in name for part in parts)
        ]
    assert scaled, parts
    return model
