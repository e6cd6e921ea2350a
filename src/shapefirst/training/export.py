"""Stage: from the trained parts to the folder that ships, a ``StableDiffusionPipeline`` in float16 safetensors.

weights/                    the pipeline
weights/clip/               the text encoder with its image encoder, a transformers ``CLIPModel``
weights/judge/              the judge
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

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
    """Gather ``parts/{sharp,clip,vae,unet,judge}`` into ``target``, written beside it first and then renamed."""
    clip, tokenizer = CLIPModel.from_pretrained(parts / "sharp"), CLIPTokenizer.from_pretrained(parts / "clip")
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict())
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(parts / "vae"),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(parts / "unet"),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for module in (pipe.vae, pipe.text_encoder, pipe.unet, clip):
        module.half()
    pipe.save_pretrained(part, safe_serialization=True)
    clip.save_pretrained(part / "clip")
    tokenizer.save_pretrained(part / "clip")
    for file in part.rglob("config.json"):
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)  # where it lay on the machine that made it
        if "dtype" in config:
            # transformers takes its precision from here, diffusers takes float32: from_pretrained would mix them.
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n")
    (part / "clip" / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=1) + "\n")
    shutil.copytree(parts / "judge", part / "judge")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
