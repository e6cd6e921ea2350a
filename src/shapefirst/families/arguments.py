"""Which arguments of diffusers' denoisers have a row (or several) for each image and branch, and which are one for all.

A tensor's first size does not tell: a table of rotary embeddings may have as many entries as the batch has rows.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

import torch

__all__ = ["LATENTS", "LISTED", "ROWED", "SECOND", "SHARED", "TIMES", "parameters_of"]

#: What denoisers call the timestep among their arguments.
TIMES: Final = ("timestep", "timesteps", "t", "timestep_ratio", "r", "sigma", "sigmas", "time")

#: And the latents, which mostly come first.
LATENTS: Final = ("sample", "hidden_states", "x", "latents")

#: A row, or as many as a video has frames, for each row of the latents.
ROWED: Final = frozenset(
    """
    sample hidden_states x timestep timesteps t timestep_ratio timestep_cond timestep_r r_timestep sigma guidance
    encoder_hidden_states encoder_hidden_states_1 encoder_hidden_states_2 encoder_hidden_states_image
    encoder_hidden_states_llama3 encoder_hidden_states_mask encoder_hidden_states_t5 encoder_attention_mask
    encoder_attention_mask_1 encoder_attention_mask_2 encoder_mask attention_mask cap_feats pooled_projections
    pooled_embeds proj_embedding global_hidden_states class_labels added_cond_kwargs added_time_ids
    original_size target_size crop_coords image_meta_size style text_embedding_mask text_embedding_mask_t5 fps
    image_embeds image_embeddings image_latents inpaint_latents control_latents condition_mask id_cond id_vit_hidden
    context_latents text_bth text_lens text_encoder_layers video_coords audio_coords additional_t_cond
    perturbation_mask clip_text_pooled clip_text clip_img clip effnet c r pixels sca crp mask ofs
    audio_hidden_states audio_encoder_hidden_states audio_timestep audio_sigma audio_encoder_attention_mask
    controlnet_cond control_type conditioning_mask
    controlnet_block_samples controlnet_single_block_samples block_controlnet_hidden_states
    down_block_additional_residuals down_intrablock_additional_residuals mid_block_additional_residual
    """.split()  # noqa: SIM905
)

#: The same for all rows, however many entries they have.
SHARED: Final = frozenset(
    """
    image_rotary_emb rotary_embedding video_rotary_emb img_ids txt_ids ip_adapter_masks img_shapes img_sizes
    padding_mask visual_rope_pos text_rope_pos rope_interpolation_scale scale_factor conditioning_scale controlnet_mode
    skip_layers num_frames height width audio_num_frames patch_size f_patch_size
    control_type_idx return_dict
    """.split()  # noqa: SIM905
)

#: Lists of one tensor a row.
LISTED: Final = frozenset({"x", "cap_feats", "siglip_feats"})

#: Tensors of which the second size counts the rows.
SECOND: Final = frozenset({"encoder_hidden_states_llama3"})


def parameters_of(module: Any) -> list[str]:
    """The names of a module's arguments; a wrapper's that takes `*args` are those of what it wraps."""
    # Of the class: hooks of an older diffusers hide the arguments of the method that they stand before.
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    names = [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    wraps = any(one.kind == one.VAR_POSITIONAL for one in parameters) and set(TIMES).isdisjoint(names)
    if not wraps or type(module).forward is torch.nn.Module.forward:
        return names
    wrapped = (parameters_of(child) for child in module.children())
    inner: list[str] = next((found for found in wrapped if not set(TIMES).isdisjoint(found)), [])
    return names + inner[len(names) :]
