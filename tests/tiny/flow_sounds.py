"""Sound, alone or with a video, by transformers of flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch

from tiny import Tiny, shared, tiny
from tiny.flow import ALONE, both, flow_scheduler, masks, parts, pictures, texts, told


@shared
def ltx2_parts() -> dict[str, Any]:
    """Two transformers in one: of a video in a width of 16, and of its sound in a width of 8."""
    small = {"num_learnable_registers": None, "num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 8}
    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=8,
        rope_double_precision=False,
        perturbed_attn=True,
    )
    return {
        "transformer": transformer,
        "connectors": diffusers.pipelines.ltx2.LTX2TextConnectors(
            caption_channels=8,
            text_proj_in_factor=1,
            **{f"{kind}_connector_{name}": value for kind in ("video", "audio") for name, value in small.items()},
            connector_rope_base_seq_len=16,
            rope_double_precision=False,
        ),
        "vae": diffusers.AutoencoderKLLTX2Video(
            latent_channels=4,
            block_out_channels=(4,),
            decoder_block_out_channels=(4,),
            layers_per_block=(1,),
            decoder_layers_per_block=(1, 1),
            spatio_temporal_scaling=(True,),
            decoder_spatio_temporal_scaling=(True,),
            decoder_inject_noise=(False, False),
            downsample_type=("spatial",),
            upsample_residual=(False,),
            upsample_factor=(1,),
            patch_size=4,
        ),
        "audio_vae": diffusers.AutoencoderKLLTX2Audio(
            base_channels=4,
            ch_mult=(1,),
            num_res_blocks=1,
            attn_resolutions=None,
            resolution=32,
            latent_channels=2,
            mid_block_add_attention=False,
            mel_bins=8,
        ),
    }


def ltx2(conditions: Any, options: dict[str, Any], name: str = "LTX2Pipeline", **layout: Any) -> Tiny:
    pipe = getattr(diffusers, name)(**parts(**ltx2_parts(), vocoder=None))
    size = {"height": 32, "width": 32, "num_frames": 3, "frame_rate": 24.0}
    return Tiny(pipe, conditions, {**size, **options}, **layout)


def ltx2_both(numbers: Sequence[int]) -> dict[str, Any]:
    """Padded on the left."""
    return {**both(numbers), **{name: mask.flip(1) for name, mask in masks(numbers, "prompt_attention_mask").items()}}


#: Nothing but classifier-free guidance: neither layers without attention nor the two modalities each for itself.
PLAIN = {"stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0}


@tiny("LTX2Pipeline")
def ltx2_guided() -> Tiny:
    return ltx2(ltx2_both, {**PLAIN, "guidance_scale": 4.0, "audio_guidance_scale": 4.0})


@tiny("LTX2ImageToVideoPipeline")
def ltx2_image() -> Tiny:
    """A timestep a token of the video, 0 in its first frame, and one for the sound."""
    return ltx2(
        lambda numbers: {**ltx2_both(numbers), "image": pictures(numbers, 3, 32, 32)},
        {**PLAIN, "guidance_scale": 4.0, "audio_guidance_scale": 4.0, "image_crf": 0},
        "LTX2ImageToVideoPipeline",
    )


@tiny("LTX2Pipeline with three guidances")
def ltx2_thrice() -> Tiny:
    """Null and text in one batch, then the text without attention in a layer, then without the other modality."""
    options = {"guidance_scale": 4.0, "audio_guidance_scale": 4.0, "spatio_temporal_guidance_blocks": [1]}
    return ltx2(ltx2_both, options, calls=3)


@tiny("LTX2Pipeline without guidance")
def ltx2_distilled() -> Tiny:
    return ltx2(
        lambda numbers: texts(ltx2_both(numbers)),
        {**PLAIN, "guidance_scale": 1.0, "audio_guidance_scale": 1.0},
        **ALONE,
    )


@shared
def stable_audio_parts() -> dict[str, Any]:
    transformer = diffusers.StableAudio3DiTModel(
        io_channels=4,
        embed_dim=16,
        depth=1,
        num_heads=2,
        cond_token_dim=8,
        global_cond_dim=8,
        local_add_cond_dim=5,
        timestep_features_dim=8,
        ff_mult=1,
        num_memory_tokens=2,
        use_differential_attention=False,
    )
    vae = diffusers.AutoencoderSAME(
        patch_size=2,
        encoder_channels=8,
        encoder_c_mults=(1,),
        encoder_strides=(2,),
        encoder_transformer_depths=(1,),
        latent_dim=4,
        use_differential_attention=False,
        dim_heads=4,
        ff_mult=1,
        sampling_rate=16,
    )
    embedder = diffusers.pipelines.stable_audio_3.StableAudio3DurationEmbedder(output_dim=8, fourier_dim=8)
    return {"transformer": transformer, "vae": vae, "duration_embedder": embedder}


def stable_audio(conditions: Any, guidance_scale: float, **layout: Any) -> Tiny:
    scheduler = flow_scheduler(num_train_timesteps=1, shift=1.0)
    pipe = diffusers.StableAudio3Pipeline(**parts(**stable_audio_parts(), scheduler=scheduler))
    return Tiny(pipe, conditions, {"duration": 2.0, "guidance_scale": guidance_scale}, **layout)


def stable_audio_both(numbers: Sequence[int]) -> dict[str, Any]:
    return {**both(numbers), **masks(numbers, "encoder_attention_mask")}


@tiny("StableAudio3Pipeline")
def stable_audio_distilled() -> Tiny:
    return stable_audio(lambda numbers: texts(stable_audio_both(numbers)), 1.0, **ALONE)


@tiny("StableAudio3Pipeline with guidance")
def stable_audio_guided() -> Tiny:
    return stable_audio(stable_audio_both, 4.0)


@shared
def ace_step_parts() -> dict[str, Any]:
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 8,
    }
    encoder = diffusers.pipelines.ace_step.AceStepConditionEncoder(
        text_hidden_dim=8,
        timbre_hidden_dim=4,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
        **small,
    )
    encoder.silence_latent.normal_()
    transformer = diffusers.AceStepTransformer1DModel(
        num_hidden_layers=1, in_channels=12, audio_acoustic_hidden_dim=4, **small
    )
    return {"transformer": transformer, "condition_encoder": encoder}


def ace_step(guidance_scale: float, **layout: Any) -> Tiny:
    def embeddings(prompt: Sequence[str], **_: Any) -> tuple[torch.Tensor, ...]:
        """Of the prompt and of the lyrics, a mask after each."""
        words, lyrics = told(prompt, 3, 8, scale=3), told([f"1{prompt}" for prompt in prompt], 2, 8, scale=3)
        return words, torch.ones(len(prompt), 3), lyrics, torch.ones(len(prompt), 2)

    scheduler = flow_scheduler(num_train_timesteps=1, shift=1.0)
    pipe = diffusers.AceStepPipeline(**parts(**ace_step_parts(), scheduler=scheduler))
    pipe.encode_prompt = embeddings
    pipe.latents_per_second = 2.0
    return Tiny(
        pipe,
        lambda numbers: {"prompt": [str(number) for number in numbers]},
        {"audio_duration": 4.0, "guidance_scale": guidance_scale},
        **layout,
    )


@tiny("AceStepPipeline")
def ace_step_guided() -> Tiny:
    return ace_step(4.0, branches=("text", "null"))


@tiny("AceStepPipeline without guidance")
def ace_step_turbo() -> Tiny:
    return ace_step(1.0, **ALONE)
