"""What people do to their pipelines, and every policy on the pipelines that they then have."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.callbacks import (
    IPAdapterScaleCutoffCallback,
    SD3CFGCutoffCallback,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
)
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterTimeImageProjection
from laws import check_laws, own
from peft import LoraConfig, get_peft_model_state_dict
from test_matrix import _small_layers, counted, denoisers, error  # noqa: F401
from tiny import STEPS, Tiny, normal
from tiny.unet_parts import text_encoder

from shapefirst.guidance.blocks import guide, text_until

SD, XL, SD3 = "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"


# --- LoRA -------------------------------------------------------------------------------------------------------------


def save_lora(row: Tiny, folder: Any, seed: int = 0) -> Any:
    """A LoRA for the row's denoiser, in a folder, as one that was trained elsewhere."""
    (name,) = row.denoisers
    torch.manual_seed(seed)
    trained = copy.deepcopy(getattr(row.pipe, name))
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    trained.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    type(row.pipe).save_lora_weights(folder, **{f"{name}_lora_layers": get_peft_model_state_dict(trained)})
    return folder


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("name", [SD, SD3])
def test_lora(name, tmp_path):
    row = own(name)
    if name == SD:  # it asks its text encoder for the LoRA's layers there, though it is given embeddings
        row.pipe.register_modules(text_encoder=copy.deepcopy(text_encoder()))
    stock = row()
    for number in (1, 2):
        row.pipe.load_lora_weights(save_lora(row, tmp_path / str(number), number), adapter_name=f"style{number}")
    row.pipe.set_adapters(["style1", "style2"], [0.7, 0.4])
    with_both = row()
    assert error(with_both, stock) > 1e-3

    half = {"joint_attention_kwargs" if name == SD3 else "cross_attention_kwargs": {"scale": 0.5}}
    assert error(row(**half), with_both) > 1e-3
    check_laws(row, lambda: row(**half))

    row.pipe.fuse_lora()
    assert error(row(), with_both) < 1e-4
    check_laws(row)


@pytest.mark.parametrize("name", [SD, SD3])
def test_lora_that_comes_and_goes_within_a_block(name, tmp_path):
    row, k = own(name), STEPS // 2
    with text_until(row.pipe, k):
        plain = row()
    row.pipe.load_lora_weights(save_lora(row, tmp_path))
    with text_until(row.pipe, k):
        styled = row()
    row.pipe.unload_lora_weights()
    with text_until(row.pipe, k) as evaluations, counted(row) as seen:
        row.pipe.load_lora_weights(tmp_path)
        assert error(row(), styled) == 0
        row.pipe.fuse_lora()
        row()
        row.pipe.unfuse_lora()
        row.pipe.unload_lora_weights()
        assert error(row(), plain) < 1e-5
    assert (evaluations.rows, evaluations.calls) == (seen["rows"], seen["calls"]) == (3 * 4 * k + 3 * 2 * k, 3 * STEPS)


# --- switches ---------------------------------------------------------------------------------------------------------


def channels_last(row: Tiny) -> None:
    denoisers(row)[0].to(memory_format=torch.channels_last)


def fused_projections(row: Tiny) -> None:
    (row.pipe if hasattr(row.pipe, "fuse_qkv_projections") else row.pipe.transformer).fuse_qkv_projections()


def sliced_attention(row: Tiny) -> None:
    row.pipe.enable_attention_slicing("max")


def free_u(row: Tiny) -> None:
    row.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


def cast_layer_by_layer(row: Tiny) -> None:
    denoisers(row)[0].enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)


@pytest.mark.parametrize(
    ("switch", "name"),
    [
        *((switch, name) for switch in (channels_last, fused_projections, cast_layer_by_layer) for name in (SD, SD3)),
        *((switch, XL) for switch in (sliced_attention, free_u)),
    ],
)
def test_a_switch(switch, name):
    row = own(name)
    switch(row)
    check_laws(row)


@pytest.mark.parametrize("name", [SD, SD3])
def test_bfloat16(name):
    row = own(name)
    row.pipe.to(torch.bfloat16)
    wide = row.conditions

    def narrow(numbers: Any) -> dict[str, Any]:
        return {name: value.bfloat16() for name, value in wide(numbers).items()}

    check_laws(replace(row, conditions=narrow), tolerance=0.01)


# --- what a call is given ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [XL, "PixArtAlphaPipeline"])
def test_several_images_per_prompt(name):
    row = own(name)

    def generate() -> list[torch.Tensor]:
        generators = [torch.Generator().manual_seed(number) for number in range(4)]
        return row(num_images_per_prompt=2, generator=generators)

    assert len(generate()[0]) == 4
    check_laws(row, generate)


@pytest.mark.parametrize("name", [SD, "LTXPipeline"])
def test_guidance_rescale(name):
    row = own(name)
    stock = row()
    assert error(row(guidance_rescale=0.7), stock) > 1e-3
    # The equations of a dropped branch are put into the predictions, so the rescaling is the pipeline's own.
    check_laws(row, lambda: row(guidance_rescale=0.7))


@pytest.mark.parametrize(("kind", "clip_skip"), [("sd-epsilon", None), ("sdxl", 1)])
def test_prompts_and_clip_skip(make_pipe, kind, clip_skip):
    """Rows of the matrix are given embeddings; these encode their prompts."""
    prompts = ("a red cat", "two dogs")
    pipe = copy.copy(make_pipe(kind))
    row = Tiny(
        pipe,
        lambda numbers: {"prompt": [prompts[n] for n in numbers], "negative_prompt": ["moose"] * len(numbers)},
        {"guidance_scale": 5.0, "clip_skip": clip_skip},
        denoisers=("unet",),
    )
    check_laws(row)


# --- what changes half-way --------------------------------------------------------------------------------------------


def image_prompt(name: str) -> Tiny:
    if name != SD3:
        return own(f"{name} with IP-Adapter")
    row = own(name)
    transformer = row.pipe.transformer
    torch.manual_seed(0)
    width = transformer.config.attention_head_dim * transformer.config.num_attention_heads
    sizes = {"hidden_size": width, "ip_hidden_states_dim": width, "head_dim": transformer.config.attention_head_dim}
    transformer.set_attn_processor(
        {name: SD3IPAdapterJointAttnProcessor2_0(**sizes, timesteps_emb_dim=64) for name in transformer.attn_processors}
    )
    transformer.image_proj = IPAdapterTimeImageProjection(
        embed_dim=width, output_dim=width, hidden_dim=64, depth=1, heads=1, num_queries=2, timestep_in_dim=2 * width
    ).eval()
    embeddings = torch.cat([normal(71, 2, width), normal(72, 2, width)])
    return replace(row, options={**row.options, "ip_adapter_image_embeds": embeddings})


@pytest.mark.parametrize("name", [SD, XL, SD3])
def test_an_image_prompt_that_a_callback_switches_off(name):
    row = image_prompt(name)
    callback = IPAdapterScaleCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)

    def generate() -> list[torch.Tensor]:
        row.pipe.set_ip_adapter_scale(0.8)
        return row(callback_on_step_end=callback)

    row.pipe.set_ip_adapter_scale(0.8)
    assert error(row(), generate()) > 1e-4
    check_laws(row, generate)


def other_scale(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    if step == 1:
        pipe._guidance_scale = 2.0
    return tensors


def other_prompt(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_embeds": tensors["prompt_embeds"].flip(-1)} if step == 1 else tensors


def stops(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    pipe._interrupt = step >= 4
    return tensors


@pytest.mark.parametrize("callback", [other_scale, other_prompt, stops])
@pytest.mark.parametrize("name", [SD, SD3])
def test_a_callback(name, callback):
    row = own(name)
    given = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    assert error(row(**given), row()) > 1e-3
    check_laws(row, lambda: row(**given), smooth=False)


@pytest.mark.filterwarnings("ignore:This call of .* runs without classifier-free guidance")
@pytest.mark.parametrize(
    ("name", "callback"), [(SD, SDCFGCutoffCallback), (XL, SDXLCFGCutoffCallback), (SD3, SD3CFGCutoffCallback)]
)
def test_guidance_that_a_callback_switches_off(name, callback):
    """From then on there is a branch alone, which every policy that keeps one leaves alone."""
    row = own(name)
    cut = callback(cutoff_step_ratio=None, cutoff_step_index=3)

    def generate() -> list[torch.Tensor]:
        return row((0,), callback_on_step_end=cut, callback_on_step_end_tensor_inputs=cut.tensor_inputs)

    with counted(row) as whole:
        stock = generate()
    assert whole["rows"] == 2 * 4 + 2  # steps 0 to 3 are guided
    for policy, rows in {"full": 10, "text:4": 10, "text:2": 2 * 2 + 2 + 2}.items():
        with guide(row.pipe, policy) as evaluations, counted(row) as seen:
            made = generate()
        assert (evaluations.rows, evaluations.calls) == (seen["rows"], seen["calls"]) == (rows, STEPS)
        assert (error(made, stock) == 0) is (rows == 10)
    with guide(row.pipe, "every:2") as evaluations, counted(row) as seen:
        assert all(x.isfinite().all() for x in generate())
    assert (evaluations.rows, evaluations.calls) == (seen["rows"], seen["calls"])
    assert seen["rows"] < 10
