"""Stage: the denoiser eps(t, x_t, C), a U-Net or a transformer that reads the prompt by cross-attention.

Epsilon prediction under Stable Diffusion's scaled-linear betas. The loss is weighted by min(snr, 5) / snr (Hang et al.
2023), and never by less than 0.2 / snr, as it is under much noise that the prompt decides what stands where; the
timesteps of a batch are stratified; the prompt is empty in one step out of ten, for classifier-free guidance. What the
picture shows is asked of features within the network, too (`training.questions`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, PixArtTransformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from rich.progress import track
from torch import Tensor, nn

from shapefirst.training.loop import Recipe, TrainingRun, fit, generator_on, mixed_precision, part_of
from shapefirst.training.noise import coloured
from shapefirst.training.questions import Contents, Questioned

EMPTY_PROMPT_SHARE = 0.1
SNR_CAP, SNR_FLOOR = 5.0, 0.2
#: The heads begin from nothing where the network may go on from finished weights.
HEADS_LEARN_FASTER = 5.0
#: No caption of the world has more tokens, with what begins and ends it: what is masked beyond is not kept.
LONGEST = 24


@dataclass(frozen=True)
class Captions:
    """What the denoiser reads of n captions, of which m are distinct.

    Attributes:
        states: (m, positions, width) float16; row 0 is the empty prompt.
        masks: (m, positions) bool, True where there is text; None where padding is read like words.
        rows: (n,) int64, the row of each caption.
    """

    states: Tensor
    masks: Tensor | None
    rows: Tensor


def build_unet(width: int) -> UNet2DConditionModel:
    """The untrained network, at 16 x 16 latents; ``width`` is that of the text encoder."""
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


def build_transformer(width: int, patch_size: int = 2) -> PixArtTransformer2DModel:
    """The untrained network: PixArt-alpha's (Chen et al. 2023), 8 layers x 224 on the 64 patches of 16 x 16 latents.

    It predicts no variance: no sampler here would read it, and pipelines throw it away.

    Args:
        width: That of the text encoder.
        patch_size: 4 for the coarse network that training begins with (`refined`): 16 patches, a quarter of the work.
    """
    model = PixArtTransformer2DModel(
        sample_size=16,
        patch_size=patch_size,
        in_channels=4,
        out_channels=4,
        num_layers=8,
        num_attention_heads=7,
        attention_head_dim=32,
        cross_attention_dim=224,
        caption_channels=width,
        use_additional_conditions=False,
        # Places count in patches of 2 x 2, so that a coarse network's positions mean what the fine one's do.
        interpolation_scale=1 if patch_size == 2 else 2 / patch_size,
    )
    # As PixArt-alpha begins: nothing of the text comes in, nothing goes out.
    for block in model.transformer_blocks:
        nn.init.zeros_(block.attn2.to_out[0].weight)
        nn.init.zeros_(block.attn2.to_out[0].bias)
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    return model


@torch.no_grad()
def refined(coarse: PixArtTransformer2DModel) -> PixArtTransformer2DModel:
    """The network of 2 x 2 patches to go on with from a trained one of 4 x 4.

    All blocks are taken over: they work on any number of patches. What reads a patch takes the four smaller ones
    together (Beyer et al. 2023, FlexiViT), what writes one the mean of the four, and both are soon learned anew.
    """
    fine = build_transformer(coarse.config.caption_channels)
    weights, own = coarse.state_dict(), fine.state_dict()
    read, write, bias = "pos_embed.proj.weight", "proj_out.weight", "proj_out.bias"
    weights[read] = weights[read].unfold(2, 2, 2).unfold(3, 2, 2).sum((2, 3))
    for name in (write, bias):
        places = weights[name].unflatten(0, (2, 2, 2, 2, -1))  # row, row within, column, column within, channel
        weights[name] = places.mean((0, 2)).reshape_as(own[name])
    fine.load_state_dict(weights)
    return fine


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
def encode_captions(captions: list[str], tokenizer: Any, encoder: nn.Module, *, masked: bool) -> Captions:
    """The text encoder's last states of every distinct caption, computed once, as a stock pipeline hands them over.

    Args:
        captions: n of them.
        tokenizer: Of the encoder; pads to its own length.
        encoder: (ids, attention mask) -> ``last_hidden_state``.
        masked: Whether padding is masked, in the encoder and for the denoiser, as T5's is and CLIP's is not.
    """
    unique = ["", *dict.fromkeys(captions)]
    row = {c: i for i, c in enumerate(unique)}
    device = next(encoder.parameters()).device
    states, masks = [], []
    for i in track(range(0, len(unique), 256), "prompts"):
        tokens = tokenizer(unique[i : i + 256], padding="max_length", truncation=True, return_tensors="pt")
        ids, mask = (
            tokens[name][:, : LONGEST if masked else None].to(device) for name in ("input_ids", "attention_mask")
        )
        out = encoder(input_ids=ids, attention_mask=mask) if masked else encoder(input_ids=ids)
        states.append(out.last_hidden_state.half().cpu())
        masks.append(mask.bool().cpu())
    return Captions(torch.cat(states), torch.cat(masks) if masked else None, torch.tensor([row[c] for c in captions]))


def train_denoiser(
    build: Callable[[int], Any],
    latents: Tensor,
    captions: Captions,
    contents: Contents,
    recipe: Recipe,
    run: TrainingRun,
    *,
    start_from: Path | None = None,
    filter_of_noise: Tensor | None = None,
    stage: str = "denoiser",
) -> Any:
    """Train on latents (n, 4, 16, 16) and their captions.

    Args:
        build: Width of the text's states -> untrained network.
        contents: What the n pictures show.
        start_from: A network of that kind to go on from.
        filter_of_noise: (4, 16, 16), by which the noise is coloured and the loss is whitened (`training.noise`);
            None for white noise.
        stage: What its checkpoint and its log are called.
    """
    torch.manual_seed(run.seed)
    device = run.device
    model = build(captions.states.shape[-1])
    if start_from is not None:
        model = type(model).from_pretrained(start_from)
    model = model.to(device)
    if isinstance(model, UNet2DConditionModel):
        model = model.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        # The CPU's fused attention is slow backwards: plain attention takes a third off a training step.
        model.set_attn_processor(AttnProcessor())
    abar = build_scheduler().alphas_cumprod.to(device)
    snr = abar / (1 - abar)
    weight = snr.clamp(SNR_FLOOR, SNR_CAP) / snr
    latents, states, rows = (x.to(device) for x in (latents, captions.states, captions.rows))
    contents = contents.to(device)
    masks = None if captions.masks is None else captions.masks.to(device)
    h = None if filter_of_noise is None else filter_of_noise.to(device)
    questioned = Questioned(model).to(device)

    def loss(_: int, g: torch.Generator) -> dict[str, Tensor]:
        b, g = recipe.batch, generator_on(device, g)
        index = torch.randint(len(latents), (b,), generator=g, device=device)
        row = rows[index] * (torch.rand(b, generator=g, device=device) >= EMPTY_PROMPT_SHARE)
        t = ((torch.arange(b, device=device) + torch.rand(b, generator=g, device=device)) / b * len(abar)).long()
        white = torch.randn(b, *latents.shape[1:], generator=g, device=device)
        index, row, t, white = (part_of(v) for v in (index, row, t, white))
        a = abar[t, None, None, None]
        x_t = a.sqrt() * latents[index].float() + (1 - a).sqrt() * coloured(white, h)
        with mixed_precision(device):
            predicted = predict(model, x_t, t, states[row].float(), None if masks is None else masks[row])
            wrong, right = questioned.graded(contents[index])
        error = (coloured(predicted.float(), None if h is None else 1 / h) - white).square().mean((1, 2, 3))
        of_noise = (error * weight[t]).mean()
        return {
            "loss": of_noise + wrong,
            "noise": of_noise,
            "mse": error.mean(),
            "all_right": right,
        }

    faster = {"heads": HEADS_LEARN_FASTER} if start_from is not None else {}
    questioned.load_state_dict(fit(stage, questioned, loss, recipe, run, faster=faster))
    questioned.withdraw()
    if device.type == "cpu":
        model.set_default_attn_processor()
    return model.cpu().eval()


def predict(model: Any, x_t: Tensor, t: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
    """eps (b, 4, 16, 16) of either network for x_t, timesteps (b,), the text's states and its mask."""
    if isinstance(model, PixArtTransformer2DModel):
        sizes = {"resolution": None, "aspect_ratio": None}
        text = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        return model(x_t, timestep=t, added_cond_kwargs=sizes, **text, return_dict=False)[0]
    return model(x_t.to(memory_format=torch.channels_last), t, states, return_dict=False)[0]
