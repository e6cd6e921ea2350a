"""Stable Diffusion in one file: the names that the code which trained it gave to the weights of its networks.

Written from the order in which that code numbers its blocks; `diffusers` has the way back. Stable Diffusion 1 has CLIP
with the names of transformers, SDXL a second text encoder with those of open_clip.
"""

from __future__ import annotations

import re

import torch


def to_ldm(parts: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stable Diffusion 1: `unet` (one layer a level), `vae` and `text_encoder`, by the names of their libraries."""
    return {
        **_shared(parts, layers=1, without_attention=(0,)),
        **{f"cond_stage_model.transformer.{key}": value for key, value in parts["text_encoder"].items()},
    }


def to_sgm(parts: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """SDXL: `unet` (two layers a level), `vae`, `text_encoder` and `text_encoder_2`."""
    return {
        **_shared(parts, layers=2, without_attention=()),
        **{f"conditioner.embedders.0.transformer.{key}": value for key, value in parts["text_encoder"].items()},
        **{f"conditioner.embedders.1.model.{key}": value for key, value in _open_clip(parts["text_encoder_2"]).items()},
    }


def _shared(parts, *, layers: int, without_attention: tuple[int, ...]) -> dict[str, torch.Tensor]:
    names = {key: _unet(key, layers + 1, without_attention) for key in parts["unet"]}
    return {
        **{f"model.diffusion_model.{names[key]}": value for key, value in parts["unet"].items()},
        **{f"first_stage_model.{_vae(key)}": _as_convolution(key, value) for key, value in parts["vae"].items()},
    }


def _open_clip(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A text encoder of transformers as open_clip has it: queries, keys and values in one matrix."""
    names = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    inside = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    inside["self_attn.out_proj"] = "attn.out_proj"
    found = {"text_projection": weights["text_projection.weight"].T.contiguous(), "logit_scale": torch.tensor(4.6)}
    for key, value in weights.items():
        match = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if match is None:
            found |= {names[key]: value} if key in names else {}
        elif match[2] in inside:
            found[f"transformer.resblocks.{match[1]}.{inside[match[2]]}.{match[3]}"] = value
        elif match[2] == "self_attn.q_proj":
            three = [weights[key.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            found[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"] = torch.cat(three)
    return found


def _resnet(key: str) -> str:
    names = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
    names |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
    part, rest = key.split(".", 1)
    return f"{names[part]}.{rest}"


def _unet(key: str, size: int, without_attention: tuple[int, ...]) -> str:
    """A U-Net's weight; ``size`` is the number of blocks of a level, of which some have no attention on the way up."""
    whole = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
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
        block = size * level + 1 + number
        if kind == "downsamplers":
            return f"input_blocks.{size * (level + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{block}.0.{_resnet(rest)}" if kind == "resnets" else f"input_blocks.{block}.1.{rest}"
    block = size * level + number
    if kind == "upsamplers":  # behind the attention, where the level has one
        return f"output_blocks.{size * level + size - 1}.{1 if level in without_attention else 2}.{rest}"
    return f"output_blocks.{block}.0.{_resnet(rest)}" if kind == "resnets" else f"output_blocks.{block}.1.{rest}"


def _vae(key: str) -> str:
    key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2", key)
    key = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", key)
    names = {
        "group_norm": "norm",
        "query|to_q": "q",
        "key|to_k": "k",
        "value|to_v": "v",
        r"proj_attn|to_out\.0": "proj_out",
    }
    for old, ldm in names.items():
        key = re.sub(rf"mid_block\.attentions\.0\.({old})\.", f"mid.attn_1.{ldm}.", key)
    return key


def _as_convolution(key: str, value: torch.Tensor) -> torch.Tensor:
    """That code's attention in the autoencoder has convolutions of one pixel in place of linear layers."""
    is_linear = re.search(r"attentions\.0\.(query|key|value|proj_attn|to_q|to_k|to_v|to_out\.0)\.weight", key)
    return value[:, :, None, None] if is_linear else value
