"""Tiny pipelines of sound that run both branches in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import transformers

from tiny import Tiny, tiny
from tiny.embeddings import loud, masks, null, text
from tiny.pictures import GUIDED, LENGTH, SIDE, TINY, WIDTH, ddim, pipeline

#: Rows with as many calls a generation, because not every step has the same.
CALLS: dict[str, int] = {}
#: Rows whose class fails with more than one sound.
ALONE: tuple[str, ...] = ()


def _prompts(numbers: Sequence[int]) -> dict[str, Any]:
    others = [number + 1 for number in numbers]
    return {
        "prompt_embeds": text(numbers, LENGTH, WIDTH),
        "negative_prompt_embeds": null(numbers, LENGTH, WIDTH),
        "attention_mask": masks(numbers, LENGTH),
        "negative_attention_mask": masks(others, LENGTH),
    }


# Each block attends to two prompts in turn. Encoders that make no embeddings here are asked for their format alone.
@tiny("AudioLDM2Pipeline")
def audio_ldm() -> Tiny:
    unet = diffusers.AudioLDM2UNet2DConditionModel(
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=(WIDTH, WIDTH),
        attention_head_dim=4,
    )
    t5 = {"d_model": WIDTH, "d_ff": 8, "d_kv": 8, "num_layers": 1, "num_heads": 1, "vocab_size": 8}
    vocoder = {"model_in_dim": 8 * SIDE, "upsample_initial_channel": 4, "upsample_rates": [2], "sampling_rate": 16}
    pipe = pipeline(
        "AudioLDM2Pipeline",
        *("vae", "tokenizer_2", "projection_model", "feature_extractor"),
        unet=loud(unet),
        text_encoder_2=transformers.T5EncoderModel(transformers.T5Config(**t5)),
        language_model=transformers.GPT2Model(
            transformers.GPT2Config(n_embd=WIDTH, n_head=1, n_layer=1, vocab_size=8, n_positions=8)
        ),
        vocoder=transformers.SpeechT5HifiGan(
            transformers.SpeechT5HifiGanConfig(
                **vocoder, upsample_kernel_sizes=[4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]]
            )
        ),
        scheduler=ddim(),
    )

    def conditions(numbers: Sequence[int]) -> dict[str, Any]:
        generated = {
            "generated_prompt_embeds": text(numbers, LENGTH, WIDTH, kind=1),
            "negative_generated_prompt_embeds": null(numbers, LENGTH, WIDTH, kind=1),
        }
        return {**_prompts(numbers), **generated}

    return Tiny(pipe, conditions, {"audio_length_in_s": 4.0, **GUIDED}, denoisers=("unet",))


# Its timestep has no rows, and its rotary tables have one for each of the five tokens and the one that says how long.
@tiny("StableAudioPipeline")
def stable_audio() -> Tiny:
    transformer = diffusers.StableAudioDiTModel(
        **TINY,
        sample_size=5,
        in_channels=3,
        out_channels=3,
        num_key_value_attention_heads=1,
        cross_attention_dim=WIDTH,
        time_proj_dim=8,
        global_states_input_dim=2 * WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[1, 2],
        channel_multiples=[1, 2],
        decoder_channels=4,
        decoder_input_channels=3,
        sampling_rate=4,
    )
    pipe = pipeline(
        "StableAudioPipeline",
        transformer=loud(transformer),
        vae=vae,
        projection_model=diffusers.StableAudioProjectionModel(WIDTH, WIDTH, 0, 32),
        scheduler=diffusers.CosineDPMSolverMultistepScheduler(solver_order=2, prediction_type="v_prediction"),
    )
    return Tiny(pipe, _prompts, {"audio_end_in_s": 2.0, **GUIDED})
