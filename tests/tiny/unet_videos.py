"""Videos made by U-Nets: latents are (videos, channels, frames, height, width) unless a row says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from transformers import CLIPImageProcessor

from . import Tiny, tiny
from .unet_parts import BETAS, PICTURE, WIDE, awake, certain, ddim, drawn, image_encoder, listening, pictures, unet, vae
from .unets import control_net, image, pooled, row
from .unets_xl import net

FRAMES = 2
SIZES = {"height": PICTURE, "width": PICTURE}
VIDEO = {**SIZES, "num_frames": FRAMES}


def motion() -> Any:
    return awake(
        diffusers.MotionAdapter(
            block_out_channels=(8,),
            motion_layers_per_block=1,
            motion_norm_num_groups=2,
            motion_num_attention_heads=2,
            use_motion_mid_block=False,
        )
    )


def animate(name: str, **parts: Any) -> Any:
    given = {"vae": vae(), "text_encoder": None, "tokenizer": None, "scheduler": ddim(), "motion_adapter": motion()}
    return getattr(diffusers, name)(**{**given, "unet": unet(), **parts})


def clip(seed: int = 0) -> list[torch.Tensor]:
    """Frames, (3, height, width) each."""
    return list(pictures(range(seed, seed + FRAMES)))


def clips(numbers: Sequence[int]) -> dict[str, Any]:
    return {"video": torch.stack([torch.stack(clip(10 * number)) for number in numbers])}


@tiny("AnimateDiffPipeline")
def animate_diff() -> Tiny:
    """Prompts' rows repeat for each frame, within a branch."""
    return row(animate("AnimateDiffPipeline"), options=VIDEO)


@tiny("AnimateDiffPAGPipeline")
def animate_diff_perturbed() -> Tiny:
    pipe = animate("AnimateDiffPAGPipeline", pag_applied_layers="mid_block.*attn1")
    return row(pipe, options={**VIDEO, "pag_scale": 2.0}, way="whole calls", branches=("null", "text", "perturbed"))


@tiny("AnimateDiffSDXLPipeline")
def animate_diff_xl() -> Tiny:
    """Pooled text and measures have one row a video, prompts' embeddings one a frame."""
    parts = {"text_encoder_2": None, "tokenizer_2": None}
    return row(animate("AnimateDiffSDXLPipeline", unet=net(), **parts), pooled, options=VIDEO)


@tiny("AnimateDiffControlNetPipeline")
def animate_diff_control() -> Tiny:
    """The ControlNet's rows are frames, of one video: several videos can be made only of one frame each."""
    denoiser = unet()
    pipe = animate("AnimateDiffControlNetPipeline", unet=denoiser, controlnet=control_net(denoiser))
    options = {**VIDEO, "num_frames": 1, "conditioning_frames": clip()[:1]}
    return row(pipe, options=options, beside=("controlnet",))


@tiny("AnimateDiffVideoToVideoPipeline")
def animate_diff_video() -> Tiny:
    return row(animate("AnimateDiffVideoToVideoPipeline"), clips, options={**SIZES, "strength": 1.0})


@tiny("AnimateDiffVideoToVideoControlNetPipeline")
def animate_diff_video_control() -> Tiny:
    """As many frames to follow as there are videos, so several videos can be made only of one frame each."""

    def given(numbers: Sequence[int]) -> dict[str, Any]:
        frames = [clip(number)[0] for number in numbers]
        return {"video": clips(numbers)["video"][:, :1], "conditioning_frames": frames}

    denoiser = unet()
    pipe = animate("AnimateDiffVideoToVideoControlNetPipeline", unet=denoiser, controlnet=control_net(denoiser))
    return row(pipe, given, options={**SIZES, "strength": 1.0}, beside=("controlnet",))


@tiny("AnimateDiffSparseControlNetPipeline")
def animate_diff_sparse() -> Tiny:
    """Its ControlNet sees whole videos, of which one frame is known, the same for all."""
    control = diffusers.SparseControlNetModel(
        block_out_channels=(8,),
        layers_per_block=1,
        conditioning_channels=3,
        down_block_types=("CrossAttnDownBlockMotion",),
        cross_attention_dim=16,
        conditioning_embedding_out_channels=(4, 4),
        norm_num_groups=4,
        attention_head_dim=4,
        motion_num_attention_heads=2,
        concat_conditioning_mask=True,
        use_simplified_condition_embedding=False,
    )
    pipe = animate("AnimateDiffSparseControlNetPipeline", controlnet=awake(control))
    options = {**VIDEO, "conditioning_frames": [clip()[0][None]], "controlnet_frame_indices": [0]}
    return row(pipe, options=options, beside=("controlnet",))


@tiny("PIAPipeline")
def pia() -> Tiny:
    """The picture to animate is joined to the latents' channels."""
    pipe = animate("PIAPipeline", unet=unet(in_channels=9))
    return row(pipe, image, options=VIDEO)


BLOCKS_3D = {
    "down_block_types": ("CrossAttnDownBlock3D",),
    "up_block_types": ("CrossAttnUpBlock3D",),
}


def unet_3d(name: str, **options: Any) -> Any:
    sizes = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": PICTURE // 2}
    made = getattr(diffusers, name)(**sizes, **BLOCKS_3D, cross_attention_dim=WIDE, attention_head_dim=4, **options)
    return listening(made)


@tiny("TextToVideoSDPipeline")
def synthesized() -> Tiny:
    """Its scheduler takes (videos * frames, channels, height, width)."""
    parts = {"vae": vae(), "text_encoder": None, "tokenizer": None, "scheduler": ddim()}
    return row(diffusers.TextToVideoSDPipeline(**parts, unet=unet_3d("UNet3DConditionModel")), options=VIDEO)


@tiny("I2VGenXLPipeline")
def generated_from_picture() -> Tiny:
    """The picture counts for both branches, but for its embedding, which the null branch is given as zeros."""
    pipe = diffusers.I2VGenXLPipeline(
        vae=certain(vae()),
        text_encoder=None,
        tokenizer=None,
        image_encoder=image_encoder(),
        feature_extractor=CLIPImageProcessor(crop_size=PICTURE, size=PICTURE),
        unet=unet_3d("I2VGenXLUNet", in_channels=4),
        scheduler=ddim(),
    )
    return row(pipe, lambda numbers: {"image": drawn(numbers)}, options={**VIDEO, "target_fps": 8})


@tiny("StableVideoDiffusionPipeline")
def stable_video() -> Tiny:
    """The picture stands where text does elsewhere, and guidance grows from frame to frame: (videos, frames, ...)."""
    pipe = diffusers.StableVideoDiffusionPipeline(
        vae=diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
        ),
        image_encoder=image_encoder(),
        unet=listening(
            diffusers.UNetSpatioTemporalConditionModel(
                block_out_channels=(32,),  # it normalizes groups of 32
                layers_per_block=1,
                sample_size=PICTURE // 2,
                down_block_types=("CrossAttnDownBlockSpatioTemporal",),
                up_block_types=("CrossAttnUpBlockSpatioTemporal",),
                cross_attention_dim=WIDE,
                num_attention_heads=2,
                projection_class_embeddings_input_dim=24,
                addition_time_embed_dim=8,
                num_frames=FRAMES,
            )
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            **BETAS,
            prediction_type="v_prediction",
            sigma_max=700.0,
            sigma_min=0.002,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        feature_extractor=CLIPImageProcessor(crop_size=PICTURE, size=PICTURE),
    )
    options = {**VIDEO, "min_guidance_scale": 2.0, "max_guidance_scale": 4.0}
    return Tiny(pipe, image, options, denoisers=("unet",), way="one batch")
