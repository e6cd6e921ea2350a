"""Stage: the autoencoder, 64 x 64 x 3 pixels <-> 16 x 16 x 4 latents.

Most of the steps see 32 x 32 crops, four times as many gradient steps for the same arithmetic; the last ones see whole
images, because the statistics of group normalisation and the borders differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from rich.progress import track
from torch import Tensor

from shapefirst.training.loop import Recipe, TrainingRun, fit, mixed_precision
from shapefirst.world.renders import Renders

CROP, CROPPED_SHARE = 32, 0.65
KL_WEIGHT = 1e-3  # keeps the latents' scale in hand; the posterior stays narrow (std about 0.02)
GRADIENT_WEIGHT = 0.5


def build_autoencoder() -> AutoencoderKL:
    """The untrained network: three levels, no attention (it would tie the weights to one resolution)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """L1 distance of the horizontal and vertical finite differences of two image batches: edges and fine texture."""
    d = a - b
    return d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()


def train_autoencoder(renders: Renders, recipe: Recipe, run: TrainingRun) -> AutoencoderKL:
    """Train from ``renders`` with L1 + gradient L1 + KL (Rombach et al. 2022, without the adversary)."""
    torch.manual_seed(run.seed)
    model = build_autoencoder().to(run.device, memory_format=torch.channels_last)
    whole_from = round(CROPPED_SHARE * recipe.steps)

    def loss(step: int, g: torch.Generator) -> dict[str, Tensor]:
        cropped = step < whole_from
        count = recipe.batch if cropped else recipe.batch // 4
        x = renders.batch(torch.randint(len(renders), (count,), generator=g), run.device)
        if cropped:
            top, left = torch.randint(0, (x.shape[-1] - CROP) // 4 + 1, (2,), generator=g).mul(4).tolist()
            x = x[..., top : top + CROP, left : left + CROP]
        x = x.contiguous(memory_format=torch.channels_last)
        with mixed_precision(run.device):
            posterior = model.encode(x).latent_dist
            y = model.decode(posterior.sample(generator=g)).sample.float()
        l1, edges = F.l1_loss(y, x), gradient_l1(y, x)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        kl_weight = KL_WEIGHT * min(1.0, 4 * step / recipe.steps)
        return {"loss": l1 + GRADIENT_WEIGHT * edges + kl_weight * kl, "l1": l1, "edges": edges, "kl": kl}

    model.load_state_dict(fit("autoencoder", model, loss, recipe, run))
    model = model.cpu().eval()
    standardise(model, renders)
    return model


@torch.no_grad()
def standardise(model: AutoencoderKL, renders: Renders) -> None:
    """Fold a shift and a scale per channel into the 1 x 1 convolutions around the latents: mean 0, variance 1 each.

    The pictures do not change; the denoiser meets every channel at the same scale, with ``scaling_factor`` 1.
    """
    z = torch.cat(
        [model.encode(renders.batch(i)).latent_dist.mean for i in torch.arange(min(2048, len(renders))).split(64)]
    )
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    inward, outward = model.quant_conv, model.post_quant_conv
    outward.bias += (outward.weight * mean[None, :, None, None]).sum((1, 2, 3))
    outward.weight *= std[None, :, None, None]
    channels = len(std)
    inward.weight[:channels] /= std[:, None, None, None]
    inward.bias[:channels] = (inward.bias[:channels] - mean) / std
    inward.bias[channels:] -= 2 * std.log()


@torch.no_grad()
def encode_all(model: AutoencoderKL, renders: Renders) -> Tensor:
    """(n, 4, 16, 16) latents of every render (the posterior's mean), float16."""
    parts = track(torch.arange(len(renders)).split(128), "latents")
    device = next(model.parameters()).device
    return torch.cat([model.encode(renders.batch(i, device)).latent_dist.mean.half().cpu() for i in parts])
