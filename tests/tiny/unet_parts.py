"""What tiny pipelines around a U-Net are put together from."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from conftest import _clip_tokenizer, _text_encoder
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from . import normal, shared

#: Gentler noise than a real model's: random predictions are no noise, and dividing by a tiny sqrt(abar_T) would blow
#: the latents up until later steps hardly show in them.
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.004}
WIDE = 16  # what an embedded token is wide
SIZE = 8  # of latents; pictures have twice as much
PICTURE = 2 * SIZE


def ddim(**options: Any) -> Any:
    given = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **BETAS, **options}
    return diffusers.DDIMScheduler(**given)


def unet(**options: Any) -> Any:
    """With attention on the way down, in the middle and on the way up."""
    given = {
        "sample_size": SIZE,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDE,
        "attention_head_dim": 4,
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    }
    return listening(diffusers.UNet2DConditionModel(**{**given, **options}))


def listening(denoiser: Any, factor: float = 10.0, where: str = "attn2.to_v") -> Any:
    """A random model hardly listens to its prompt; this makes the branches differ as a trained model's do."""
    with torch.no_grad():
        for name, weight in denoiser.named_parameters():
            if where in name:
                weight.mul_(factor)
    return denoiser


def awake(network: Any, scale: float = 0.1) -> Any:
    """A ControlNet or motion module begins with zeros, that do nothing."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(scale * torch.randn_like(weight))
    return network


def filled(network: Any) -> Any:
    """One that begins with layers of zeros, that would let nothing through."""
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
    return network


@shared
def vae(**options: Any) -> Any:
    given = {
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "sample_size": PICTURE,
    }
    return diffusers.AutoencoderKL(**{**given, **options})


def certain(autoencoder: Any) -> Any:
    """A copy with hardly any noise of its own, for pipelines that draw it from torch's own generator."""
    made = copy.deepcopy(autoencoder)
    with torch.no_grad():
        half = len(made.quant_conv.bias) // 2
        made.quant_conv.weight[half:] = 0
        made.quant_conv.bias[half:] = -30  # the logarithm of the variance
    return made


@shared
def clip_tokenizer() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return _clip_tokenizer(Path(folder))


@shared
def text_encoder(kind: str = "CLIPTextModel") -> Any:
    return _text_encoder(clip_tokenizer(), kind)


@shared
def image_encoder() -> Any:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDE,
            projection_dim=WIDE,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=PICTURE,
            intermediate_size=WIDE,
            patch_size=PICTURE // 2,
        )
    )


def each(numbers: Sequence[int], *shape: int, about: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers, (images, *shape); what they are about keeps one kind of condition apart from the others."""
    return torch.cat([normal(1000 * about + number, *shape, scale=scale) for number in numbers])


def embeddings(numbers: Sequence[int], *shape: int, prefix: str = "prompt_embeds") -> dict[str, torch.Tensor]:
    """Those of prompts and of negative prompts, (images, *shape) each."""
    about = sum(map(ord, prefix))
    return {prefix: each(numbers, *shape, about=about), f"negative_{prefix}": each(numbers, *shape, about=about + 1)}


def pictures(numbers: Sequence[int], size: int = PICTURE, channels: int = 3) -> torch.Tensor:
    """(images, channels, size, size), in [0, 1]."""
    return each(numbers, channels, size, size, about=7).sigmoid()


def masks(numbers: Sequence[int], size: int = PICTURE) -> torch.Tensor:
    """(images, 1, size, size) of zeros and ones: the columns right of one that tells images apart are painted anew."""
    columns = torch.arange(size).expand(1, 1, size, size)
    return torch.cat([columns > size // 4 + number for number in numbers]).float()


def drawn(numbers: Sequence[int], size: int = PICTURE) -> list[Image.Image]:
    """The same for those who take nothing else."""
    values = (255 * pictures(numbers, size)).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(value) for value in values]


def prompts(numbers: Sequence[int]) -> dict[str, Any]:
    """For those who do not take embeddings."""
    return {"prompt": [f"{'a red cat' if number % 2 else 'moose'} {number}" for number in numbers]}
