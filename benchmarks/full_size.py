"""What policies save in seconds at full size, on a GPU: SDXL at 1024 pixels; SD 1.5, 2.1-base and PixArt-alpha at 512.

    python benchmarks/full_size.py [--models sdxl sd15 sd21-base pixart-alpha] [--samplers dpm-solver-karras ddim]
                                   [--batch 1 4 16] [--rounds 5] [--no-compile]

The denoisers and decoders are built from their published configurations with random weights: speed does not depend on
the weights, and nothing is downloaded. Prompts are random embeddings of the right shape, so that text encoders, which
run once in a call, are left out. fp16, 25 steps of DPM-Solver++ with Karras' times and 50 of DDIM. The text in all and
in half of the steps, 75% and 60% of the evaluations, in turns with the stock pipeline (`shapefirst.sweep.stopwatch`).
Without a GPU the same runs on pocket, in float32. The table is written anew after every sampler and batch size.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

SAMPLERS = {"dpm-solver-karras": 25, "ddim": 50}  # with their numbers of steps
POLICIES = {
    "text in all steps": TextSchedule.until(fraction=1),
    "the paper, text in 50%": TextSchedule.until(fraction=0.5),
    "ours, 75% of the evaluations": TextSchedule.within(0.75),
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
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
POOLED = 1280  # the width of SDXL's pooled embedding
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
#: For a dry run.
SMALL = {"block_out_channels": (64,) * 4, "attention_head_dim": 8, "sample_size": 16}
SMALL_SDXL = {**SMALL, "block_out_channels": (64,) * 3, "transformer_layers_per_block": (1, 1, 1)}


@contextmanager
def on_the_gpu() -> Iterator[None]:
    """Networks are built in float16 on the GPU, if there is one: billions of random numbers take the CPU a minute."""
    if not torch.cuda.is_available():
        yield
        return
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("cuda"):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def built(name: str, dry: bool) -> Any:
    """The pipeline with random weights; narrow and shallow for a dry run."""
    import diffusers

    torch.manual_seed(0)
    with on_the_gpu():
        vae = diffusers.AutoencoderKL(
            block_out_channels=(32, 64, 64, 64) if dry else (128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
        if name == "pixart-alpha":
            config: dict[str, Any] = {**PIXART, **({"num_layers": 2, "sample_size": 16} if dry else {})}
            denoiser = diffusers.PixArtTransformer2DModel(**config)
        else:
            config = {**UNETS[name], **((SMALL_SDXL if name == "sdxl" else SMALL) if dry else {})}
            denoiser = diffusers.UNet2DConditionModel(**config)
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    parts = {"vae": vae.eval(), "scheduler": scheduler, "tokenizer": None, "text_encoder": None}
    if name == "pixart-alpha":
        pipe = diffusers.PixArtAlphaPipeline(**parts, transformer=denoiser.eval())
    elif name == "sdxl":
        second = {"tokenizer_2": None, "text_encoder_2": None, "add_watermarker": False}
        pipe = diffusers.StableDiffusionXLPipeline(**parts, **second, unet=denoiser.eval())
    else:
        nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = diffusers.StableDiffusionPipeline(**parts, **nothing, unet=denoiser.eval())
    if torch.cuda.is_available():
        pipe.to("cuda", torch.float16)
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
    if hasattr(pipe, "text_encoder_2"):
        pooled = torch.randn(batch, POOLED, **place)
        given |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": torch.zeros_like(pooled)}
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
    arguments.add_argument("--models", nargs="+", choices=[*UNETS, "pixart-alpha"], default=[*UNETS, "pixart-alpha"])
    arguments.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    arguments.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments.add_argument("--dry-run", action="store_true", help="small networks, on any device: to see it work")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = arguments.parse_args(words)
    cuda = torch.cuda.is_available()
    names = given.models if cuda or given.dry_run else ["pocket"]
    machine = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads, {platform.machine()}"
    kind = "trained weights" if names == ["pocket"] else "random weights (speed does not depend on them)"
    setting = f"torch {torch.__version__}, {'float16' if cuda else 'float32'}, {kind}"
    lines = [
        f"{machine}, {setting}, {given.rounds} rounds in turn; medians, and the middle half of the rounds.",
        "",
        "| model | sampler, steps | batch | policy | stock, s | policy, s | time saved | evaluations saved | ratio |",
        "|" + "---|" * 9,
    ]
    for name in names:
        for compiled in (False, True) if cuda and not given.no_compile else (False,):
            pipe = load("pocket") if name == "pocket" else built(name, given.dry_run)
            pipe.set_progress_bar_config(disable=True)
            if compiled:
                part = "unet" if hasattr(pipe, "unet") else "transformer"
                setattr(pipe, part, torch.compile(getattr(pipe, part), dynamic=False))
            for sampler, batch in track(list(product(given.samplers, given.batch)), name):
                lines += rows_of(pipe, f"{name}, compiled" if compiled else name, sampler, batch, given.rounds)
                if not given.dry_run:
                    save_text("\n".join(lines) + "\n", given.out / f"full-size-{'gpu' if cuda else 'pocket'}.md")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
