"""Stage: from the trained parts to the folder that ships, a stock pipeline in float16 safetensors.

weights/                    the pipeline: a ``PixArtAlphaPipeline`` where there is a T5, else a
                            ``StableDiffusionPipeline``
weights/clip/               pocket's text encoder with its image encoder, a transformers ``CLIPModel``: the score
weights/judge/              the judge
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from shapefirst.models.catalogue import NOISE_FILTER
from shapefirst.training.denoiser import build_scheduler

#: How ``CLIPImageProcessor`` has to prepare an image for pocket's CLIP.
_PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"height": 64, "width": 64},
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
}


def export(parts: Path, target: Path) -> None:
    """Gather ``parts/{sharp,clip or t5,vae,denoiser,judge}`` into ``target``, written beside it first, then renamed."""
    clip = CLIPModel.from_pretrained(parts / "sharp", dtype=torch.float32)
    pipe = _dit(parts) if (parts / "t5").exists() else _stable_diffusion(parts)
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for module in (*(m for m in pipe.components.values() if isinstance(m, nn.Module)), clip):
        module.half()
    pipe.save_pretrained(part, safe_serialization=True)
    clip.save_pretrained(part / "clip")
    CLIPTokenizer.from_pretrained(parts / "sharp").save_pretrained(part / "clip")
    for file in part.rglob("config.json"):
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)  # where it lay on the machine that made it
        if "dtype" in config:
            # transformers takes its precision from here, diffusers takes float32: from_pretrained would mix them.
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n")
    (part / "clip" / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=1) + "\n")
    shutil.copytree(parts / "judge", part / "judge")
    if (parts / NOISE_FILTER).exists():
        shutil.copy(parts / NOISE_FILTER, part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _stable_diffusion(parts: Path) -> StableDiffusionPipeline:
    clip = CLIPModel.from_pretrained(parts / "clip", dtype=torch.float32)
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict())
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(parts / "vae"),
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(parts / "clip"),
        unet=UNet2DConditionModel.from_pretrained(parts / "denoiser"),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _dit(parts: Path) -> PixArtAlphaPipeline:
    return PixArtAlphaPipeline(
        vae=AutoencoderKL.from_pretrained(parts / "vae"),
        text_encoder=T5EncoderModel.from_pretrained(parts / "t5", dtype=torch.float32),
        tokenizer=T5Tokenizer.from_pretrained(parts / "t5"),
        transformer=PixArtTransformer2DModel.from_pretrained(parts / "denoiser"),
        scheduler=build_scheduler(),
    )
