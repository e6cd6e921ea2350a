"""Stage: the denoiser eps(t, x_t, C), a U-Net with cross-attention to the prompt at 16 x 16 and at 8 x 8.

Epsilon prediction under Stable Diffusion's scaled-linear betas. The loss is weighted by min(snr, 5) / snr (Hang et al.
2023) and the timesteps of a batch are stratified; the prompt is empty in one step out of ten, for classifier-free
guidance.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from rich.progress import track
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from shapefirst.training.loop import Recipe, TrainingRun, fit, mixed_precision, part_of
from shapefirst.training.text import POSITIONS

EMPTY_PROMPT_SHARE = 0.1
SNR_CAP = 5.0


def build_denoiser(width: int) -> UNet2DConditionModel:
    """The untrained network, at 16 x 16 latents; ``width`` is the width of the 192-wide text encoder."""
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=(2, 4, 4),  # the number of heads, under diffusers' historical name
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """DDIM as Stable Diffusion 1.5 has it."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def encode_renders(prompts: list[str], tokenizer: CLIPTokenizer, clip: CLIPModel) -> Tensor:
    """(b, 77, 192): what ``StableDiffusionPipeline`` hands to the denoiser for these prompts."""
    tokens = tokenizer(prompts, padding="max_length", max_length=POSITIONS, truncation=True, return_tensors="pt")
    return clip.text_model(tokens.input_ids).last_hidden_state


def encode_captions(captions: list[str], tokenizer: CLIPTokenizer, clip: CLIPModel) -> tuple[Tensor, Tensor]:
    """The text encoder's output of every distinct caption, computed once.

    Returns:
        states: (m, 77, 192) float16; row 0 is the empty prompt.
        rows: (n,) the row of each caption.
    """
    unique = ["", *dict.fromkeys(captions)]
    row = {c: i for i, c in enumerate(unique)}
    parts = [
        encode_renders(unique[i : i + 64], tokenizer, clip).half() for i in track(range(0, len(unique), 64), "prompts")
    ]
    return torch.cat(parts), torch.tensor([row[c] for c in captions])


def train_denoiser(
    latents: Tensor, states: Tensor, rows: Tensor, recipe: Recipe, run: TrainingRun, *, start_from: Path | None = None
) -> UNet2DConditionModel:
    """Train on ``latents`` (n, 4, 16, 16) and what ``encode_captions`` returns; returns the averaged weights."""
    torch.manual_seed(run.seed)
    device = run.device
    model = UNet2DConditionModel.from_pretrained(start_from) if start_from else build_denoiser(states.shape[-1])
    model = model.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        # The CPU's fused attention is slow backwards: plain attention takes a third off a training step.
        model.set_attn_processor(AttnProcessor())
    abar = build_scheduler().alphas_cumprod
    snr = abar / (1 - abar)
    weight = snr.clamp(max=SNR_CAP) / snr

    def loss(_: int, g: torch.Generator) -> dict[str, Tensor]:
        b = recipe.batch
        index = torch.randint(len(latents), (b,), generator=g)
        row = rows[index] * (torch.rand(b, generator=g) >= EMPTY_PROMPT_SHARE)
        t = ((torch.arange(b) + torch.rand(b, generator=g)) / b * len(abar)).long()
        eps = torch.randn(b, *latents.shape[1:], generator=g)
        index, row, t, eps = (part_of(v) for v in (index, row, t, eps))
        a = abar[t, None, None, None]
        x_t = a.sqrt() * latents[index].float() + (1 - a).sqrt() * eps
        x_t = x_t.to(device, memory_format=torch.channels_last)
        with mixed_precision(device):
            predicted = model(x_t, t.to(device), states[row].to(device).float(), return_dict=False)[0]
        error = (predicted.float() - eps.to(device)).square().mean((1, 2, 3))
        return {"loss": (error * weight[t].to(device)).mean(), "mse": error.mean()}

    model.load_state_dict(fit("denoiser", model, loss, recipe, run))
    model.set_default_attn_processor()
    return model.cpu().eval()
