"""Stable Diffusion in one file: the names that the code which trained it gave to the weights of its three networks.

Written from the order in which that code numbers its blocks, for a U-Net of 4 levels with 1 layer each and an
autoencoder of 2 levels; `diffusers` has the way back.
"""

from __future__ import annotations

import re

import torch


def to_ldm(parts: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The networks `unet`, `vae` and `text_encoder`, each with diffusers' or transformers' names -> one checkpoint."""
    return {
        **{f"model.diffusion_model.{_unet(key)}": value for key, value in parts["unet"].items()},
        **{f"first_stage_model.{_vae(key)}": _as_convolution(key, value) for key, value in parts["vae"].items()},
        **{f"cond_stage_model.transformer.{key}": value for key, value in parts["text_encoder"].items()},
    }


def _resnet(key: str) -> str:
    names = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
    names |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
    part, rest = key.split(".", 1)
    return f"{names[part]}.{rest}"


def _unet(key: str) -> str:
    whole = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for name, ldm in whole.items():
        if key.startswith(f"{name}."):
            return key.replace(name, ldm, 1)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        kind, number, rest = match[1], int(match[2]), match[3]
        return f"middle_block.{2 * number}.{_resnet(rest)}" if kind == "resnets" else f"middle_block.1.{rest}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", key)
    assert match, key
    way, level, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if way == "down":
        block = 2 * level + 1 + number
        if kind == "downsamplers":
            return f"input_blocks.{2 * level + 2}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{block}.0.{_resnet(rest)}" if kind == "resnets" else f"input_blocks.{block}.1.{rest}"
    block = 2 * level + number
    if kind == "upsamplers":  # behind the attention, where the level has one
        return f"output_blocks.{2 * level + 1}.{1 if level == 0 else 2}.{rest}"
    return f"output_blocks.{block}.0.{_resnet(rest)}" if kind == "resnets" else f"output_blocks.{block}.1.{rest}"


def _vae(key: str) -> str:
    key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2", key)
    key = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", key)
    for old, ldm in (("group_norm", "norm"), ("query", "q"), ("key", "k"), ("value", "v"), ("proj_attn", "proj_out")):
        key = re.sub(rf"mid_block\.attentions\.0\.{old}\.", f"mid.attn_1.{ldm}.", key)
    return key


def _as_convolution(key: str, value: torch.Tensor) -> torch.Tensor:
    """That code's attention in the autoencoder has convolutions of one pixel in place of linear layers."""
    is_linear = re.search(r"attentions\.0\.(query|key|value|proj_attn)\.weight", key)
    return value[:, :, None, None] if is_linear else value
