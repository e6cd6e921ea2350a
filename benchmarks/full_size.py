"""What policies save in seconds at full size: Stable Diffusion 1.5, 2.1-base and PixArt-alpha at 512 pixels, on a GPU.

    python benchmarks/full_size.py [--models sd15 sd21-base pixart-alpha] [--batch 1 4 16] [--rounds 5] [--no-compile]

The denoisers and decoders are built from their published configurations with random weights: speed does not depend on
the weights, and nothing is downloaded. Prompts are random embeddings of the right shape, so that text encoders, which
run once in a call, are left out. fp16, DDIM with 50 steps and DPM-Solver++ with 25. The text in all, half and 30% of
the steps, and 60% of the evaluations, in turns with the stock pipeline (`shapefirst.sweep.stopwatch`). Without a GPU
the same runs on pocket, in float32.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from shapefirst import TextSchedule, load
from shapefirst.families.layout import denoiser_of
from shapefirst.files import save_text
from shapefirst.models import make_sampler
from shapefirst.sampling.loop import encode, generators
from shapefirst.sweep.stopwatch import time_policies

SAMPLERS = {"ddim": 50, "dpm-solver": 25}  # with their numbers of steps
POLICIES = {
    "text in all steps": TextSchedule.until(fraction=1),
    "the paper, text in 50%": TextSchedule.until(fraction=0.5),
    "the paper, text in 30%": TextSchedule.until(fraction=0.3),
    "ours, 60% of the evaluations": TextSchedule.within(0.6),
}
BLOCKS = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
STABLE_DIFFUSION = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": BLOCKS,
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {**STABLE_DIFFUSION, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21-base": {
        **STABLE_DIFFUSION,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
}
PIXART = {
    "sample_size": 64,
    "num_layers": 28,
    "attention_head_dim": 72,
    "num_attention_heads": 16,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "caption_channels": 4096,
    "cross_attention_dim": 1152,
    "use_additional_conditions": False,
}
SMALL = {"block_out_channels": (64,) * 4, "attention_head_dim": 8, "sample_size": 16}  # for a dry run


def built(name: str, dry: bool) -> Any:
    """The pipeline with random weights; narrow and shallow for a dry run."""
    import diffusers

    torch.manual_seed(0)
    widths = (32, 64, 64, 64) if dry else (128, 256, 512, 512)
    vae = diffusers.AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    if name == "pixart-alpha":
        config: dict[str, Any] = {**PIXART, **({"num_layers": 2, "sample_size": 16} if dry else {})}
        transformer = diffusers.PixArtTransformer2DModel(**config)
        parts = {"tokenizer": None, "text_encoder": None, "vae": vae, "transformer": transformer}
        pipe = diffusers.PixArtAlphaPipeline(**parts, scheduler=scheduler)
    else:
        config = {**UNETS[name], **(SMALL if dry else {})}
        pipe = diffusers.StableDiffusionPipeline(
            vae=vae,
            text_encoder=None,
            tokenizer=None,
            unet=diffusers.UNet2DConditionModel(**config),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.scheduler = make_sampler("ddim", pipe.scheduler.config)
    for part in (pipe.vae, denoiser_of(pipe)):
        part.eval()
    return pipe


def arguments_of(pipe: Any, batch: int, steps: int) -> dict[str, Any]:
    """A call's arguments: random embeddings where there is no text encoder."""
    given: dict[str, Any] = {
        "num_inference_steps": steps,
        "guidance_scale": 5.0,
        "output_type": "np",
    }
    if pipe.text_encoder is not None:
        known = encode(pipe, ["a red car"] * batch)
        return {**given, "prompt_embeds": known.text, "negative_prompt_embeds": known.null}
    denoiser = denoiser_of(pipe)
    place = {"device": pipe.device, "dtype": denoiser.dtype}
    if hasattr(pipe, "transformer"):
        embeddings = torch.randn(batch, 120, denoiser.config.caption_channels, **place)
        mask = torch.ones(batch, 120, **place)
        given |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask, "negative_prompt": None}
        given["use_resolution_binning"] = False
    else:
        embeddings = torch.randn(batch, 77, denoiser.config.cross_attention_dim, **place)
    return {**given, "prompt_embeds": embeddings, "negative_prompt_embeds": torch.zeros_like(embeddings)}


def rows_of(pipe: Any, name: str, sampler: str, batch: int, rounds: int) -> list[str]:
    """The table's lines for one pipeline, sampler and batch size."""
    steps = SAMPLERS[sampler]
    pipe.scheduler = make_sampler(sampler, pipe.scheduler.config)
    arguments = arguments_of(pipe, batch, steps)

    def sample() -> object:
        return pipe(**arguments, generator=generators(range(batch)))

    lines = []
    for timing in time_policies(pipe, sample, POLICIES, steps=steps, batch=batch, rounds=rounds):
        low, middle, high = timing.saved
        ratio = f"{middle / timing.evaluations_saved:.2f}" if timing.evaluations_saved else ""
        lines.append(
            f"| {name} | {sampler}, {steps} | {batch} | {timing.policy} | {statistics.median(timing.stock):.2f} "
            f"| {statistics.median(timing.seconds):.2f} | {middle:.1%} ({low:.1%} to {high:.1%}) "
            f"| {timing.evaluations_saved:.0%} | {ratio} |"
        )
    return lines


def main(words: Sequence[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--models", nargs="+", default=["sd15", "sd21-base", "pixart-alpha"])
    arguments.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments.add_argument("--dry-run", action="store_true", help="small networks, on any device: to see it work")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = arguments.parse_args(words)
    cuda = torch.cuda.is_available()
    names = given.models if cuda or given.dry_run else ["pocket"]
    lines = []
    for name in names:
        for compiled in (False, True) if cuda and not given.no_compile else (False,):
            pipe = load("pocket") if name == "pocket" else built(name, given.dry_run)
            pipe.set_progress_bar_config(disable=True)
            if cuda:
                pipe.to("cuda", torch.float16)
            if compiled:
                part = "unet" if hasattr(pipe, "unet") else "transformer"
                setattr(pipe, part, torch.compile(getattr(pipe, part), dynamic=False))
            for sampler, batch in track(list(product(SAMPLERS, given.batch)), name):
                lines += rows_of(pipe, f"{name}, compiled" if compiled else name, sampler, batch, given.rounds)
    machine = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads, {platform.machine()}"
    kind = "trained weights" if names == ["pocket"] else "random weights (speed does not depend on them)"
    setting = f"torch {torch.__version__}, {'float16' if cuda else 'float32'}, {kind}"
    head = [
        f"{machine}, {setting}, {given.rounds} rounds in turn; medians, and the middle half of the rounds.",
        "",
        "| model | sampler, steps | batch | policy | stock, s | policy, s | time saved | evaluations saved | ratio |",
        "|" + "---|" * 9,
    ]
    text = "\n".join(head + lines) + "\n"
    print(text)
    if not given.dry_run:
        save_text(text, given.out / f"full-size-{'gpu' if cuda else 'pocket'}.md")


if __name__ == "__main__":
    main()
