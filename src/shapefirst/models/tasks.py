"""What a folder or a file is that is no text-to-image pipeline, and what to do with it instead."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shapefirst.errors import ModelError, UnsupportedPipelineError, shortened
from shapefirst.models.disk import read_json
from shapefirst.models.quiet import quietly

__all__ = ["CONDITIONED", "absent_class", "check_class", "check_inputs", "refuse_file", "refuse_folder"]

#: Pipelines that are given a picture beside the prompt, which studies of that picture run all the same.
CONDITIONED: Final = (
    "StableDiffusionControlNetPipeline",
    "StableDiffusionXLControlNetPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
)

_GUIDE: Final = "build it with diffusers and run its calls within shapefirst.guide(pipe, ...)"
_CONTROLNET: Final = (
    "give it to diffusers' StableDiffusionControlNetPipeline and run its calls within shapefirst.guide(pipe, ...)"
)

#: Part of a pipeline's class name -> what it is called. The first that fits.
_CLASSES: Final = {
    "Inpaint": "an inpainting pipeline",
    "Img2Img": "an image-to-image pipeline",
    "Depth2Img": "a depth-to-image pipeline",
    "Upscale": "an upscaler",
    "InstructPix2Pix": "a pipeline that edits images",
    "ControlNet": "a pipeline with a ControlNet",
    "Prior": "a prior, which makes embeddings and no images",
    "Video": "a video pipeline",
    "Audio": "an audio pipeline",
}
#: A parameter of `__call__` that text-to-image pipelines have not got -> what it is called.
_PARAMETERS: Final = {
    "mask_image": "an inpainting pipeline",
    "control_image": "a pipeline with a ControlNet",
    "image": "a pipeline that starts from an image",
    "image_embeds": "a decoder of image embeddings",
    "image_embeddings": "a decoder of image embeddings",
    "num_frames": "a video pipeline",
    "audio_length_in_s": "an audio pipeline",
}
#: Part of diffusers' name for a kind of checkpoint -> what it is.
_KINDS: Final = {
    "inpaint": "an inpainting model",
    "pix2pix": "a model that edits images",
    "upscale": "an upscaler",
    "refiner": "the refiner of Stable Diffusion XL",
}
#: A pattern of a weight's name -> what a single file with it is, and what to do. The first that fits.
_FILES: Final = (
    (
        r"lora_(up|down|A|B)\b|lora_unet_|lora_te|[._]lora\.|hada_w1|lokr_w1|dora_scale|oft_|ia3|\.diff(_b)?$",
        "a LoRA",
        "load the model that it was made for and say pipe.load_lora_weights({file!r})",
    ),
    (
        r"^(control_model|controlnet_cond_embedding|controlnet_down_blocks|input_hint_block)\b",
        "a ControlNet",
        _CONTROLNET,
    ),
    (
        r"^(image_proj|ip_adapter)\b",
        "an IP-Adapter",
        "load the model that it was made for and say pipe.load_ip_adapter(...) on it",
    ),
    (
        r"^(emb_params|string_to_param|clip_l|clip_g)$|^<.*>$",
        "a textual inversion",
        "load the model that it was made for and say pipe.load_textual_inversion({file!r})",
    ),
    (r"motion_modules\.", "a motion adapter", "give it to diffusers' AnimateDiffPipeline"),
    (
        r"^(down_blocks|conv_in|transformer_blocks|mid_block)\b",
        "one network of a diffusers folder",
        "give the folder with the model_index.json around it",
    ),
    (
        r"^(text_model|encoder\.block|shared\.weight|vision_model)\b",
        "a text encoder alone",
        "give the folder with the model_index.json around it",
    ),
    (
        r"^(encoder|decoder|first_stage_model)\.",
        "an autoencoder alone",
        "give the model that it belongs to, and put it in with pipe.vae = AutoencoderKL.from_single_file({file!r})",
    ),
)


def check_class(index: Mapping[str, Any], name: str) -> type:
    """The class of a text-to-image pipeline that shapefirst can steer, as the index of the model called ``name`` says.

    Raises:
        ModelError: A class that this diffusers has not got, or one of the model's own.
        UnsupportedPipelineError: A pipeline of another task or another layout.
    """
    with quietly():
        import diffusers
        from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

        class_name = index["_class_name"]
        pipeline_class = getattr(diffusers, class_name, None)
        if not (isinstance(pipeline_class, type) and issubclass(pipeline_class, diffusers.DiffusionPipeline)):
            raise ModelError(absent_class(class_name, name))
        kinds = [what for part, what in _CLASSES.items() if part in class_name]
        if pipeline_class not in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values():
            parameters = inspect.signature(pipeline_class.__call__).parameters
            kinds += [what for parameter, what in _PARAMETERS.items() if parameter in parameters]
        if kinds:
            study = ", or say `shapefirst study a6`" if class_name in CONDITIONED else ""
            raise UnsupportedPipelineError(
                f"{name} is {kinds[0]} ({class_name}), which does not make an image from a prompt alone: "
                f"{_GUIDE}{study}."
            )
        from shapefirst.families import family_of_class

        if family_of_class(pipeline_class).way == "whole calls":
            raise UnsupportedPipelineError(
                f"{name} is a {class_name}, the branches of whose guidance are not known: load it with "
                f"diffusers.{class_name}.from_pretrained(), and guide() skips whole evaluations on it."
            )
        return pipeline_class


def absent_class(class_name: str, name: str) -> str:
    """What is said of a model called ``name`` whose class this diffusers has not got."""
    import diffusers

    return (
        f"{name} is a {shortened(' '.join(class_name.split()))}, which diffusers {diffusers.__version__} has not got."
    )


def check_inputs(index: Mapping[str, Any], folder: Path, name: str) -> None:
    """Raise UnsupportedPipelineError if the denoiser takes more than noisy latents: a mask, an image, a depth map."""
    parts = [part for part in ("unet", "vae") if part in index and (folder / part / "config.json").is_file()]
    contents = {part: read_json(folder / part / "config.json") for part in parts}
    taken = contents.get("unet", {}).get("in_channels")
    latent = contents.get("vae", {}).get("latent_channels")
    if isinstance(taken, int) and isinstance(latent, int) and taken != latent:
        what = {9: "an inpainting model", 8: "a model that edits images", 5: "a depth-to-image model"}
        raise UnsupportedPipelineError(
            f"{name} is {what.get(taken, 'a model that needs an image')}: its U-Net takes {taken} channels where the "
            f"latents have {latent}, so it does not make an image from a prompt alone: {_GUIDE}."
        )


def refuse_folder(folder: Path) -> None:
    """Raise ModelError for a folder without a model_index.json, and say what it is."""
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is neither a folder nor a file: give a diffusers folder or a .safetensors checkpoint."
        )
    names = {file.name for file in folder.iterdir()}
    if "adapter_config.json" in names or any("lora" in name.lower() for name in names if name.endswith(".safetensors")):
        raise ModelError(
            f"{folder} holds a LoRA: load the model that it was made for and say "
            f"pipe.load_lora_weights({str(folder)!r}) on it."
        )
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    said = [config.get("_class_name"), config.get("architectures"), config.get("model_type")]
    said = [one[0] if isinstance(one, list) and one else one for one in said]
    kind = next((shortened(" ".join(one.split())) for one in said if isinstance(one, str)), None)
    if kind and "ControlNet" in str(kind):
        raise ModelError(f"{folder} is a ControlNet: {_CONTROLNET}.")
    if kind:
        raise ModelError(
            f"{folder} is one network ({kind}): give the folder of the whole pipeline, which has a model_index.json."
        )
    checkpoints = sorted(name for name in names if name.endswith(".safetensors"))
    hint = f"; to load a checkpoint in it, give the file, such as {folder / checkpoints[0]}" if checkpoints else ""
    raise ModelError(f"{folder} is no diffusers pipeline: it has no model_index.json{hint}.")


def refuse_file(file: Path, keys: Mapping[str, Any], kind: str = "") -> None:
    """Raise ModelError for a single file with the weights ``keys``, which is no whole text-to-image model, and say what
    it is; ``kind`` is what diffusers takes it for."""
    for part, what in _KINDS.items():
        if part in kind:
            raise ModelError(
                f"{file} is {what}, which does not make an image from a prompt alone: {_GUIDE} (its pipeline's "
                "from_single_file)."
            )
    if set(keys) == {"*"}:
        keys = {"emb_params": None}
    for pattern, what, remedy in _FILES:
        if any(re.search(pattern, key) for key in keys):
            raise ModelError(f"{file} is {what}, no whole model: {remedy.format(file=str(file))}.")
    raise ModelError(
        f"{file} is no checkpoint of a text-to-image model that diffusers knows: give the checkpoint of one, or a "
        "diffusers folder (with a model_index.json)."
    )
