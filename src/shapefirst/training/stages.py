"""``shapefirst train-pocket``: the stages that make the embedded model, each resumable, deterministic in the seed.

render -> teacher -> text -> autoencoder -> encode -> denoiser -> vision -> judge -> export -> card

Everything lands in one folder; a stage whose result lies there is not run again, an interrupted one goes on from its
last checkpoint. ``weights/`` in it is what the package ships.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from shapefirst.checks import check_seed
from shapefirst.errors import ShapefirstError
from shapefirst.files import locked
from shapefirst.models.disk import check_configurations, check_whole
from shapefirst.training.ending import exit_code
from shapefirst.training.loop import Recipe

STAGES = ("render", "teacher", "text", "autoencoder", "encode", "denoiser", "vision", "judge", "export", "card")


@dataclass(frozen=True)
class Preset:
    """How much of everything. Seconds a step and minutes are in the model card of the weights that it made."""

    renders: int
    teacher: Recipe
    text: Recipe
    autoencoder: Recipe
    denoiser: Recipe
    vision: Recipe
    judge: Recipe
    card_images: int


#: Processes that share the denoiser's training on a CPU: one for every core while each gets a few images of the batch.
MOST = 8
TRIAL = Recipe(steps=2, batch=4, learning_rate=1e-3)
PRESETS = {
    # About two and a half hours on 2 cores, most of them for the denoiser (a second a step).
    "cpu": Preset(
        renders=48_000,
        teacher=Recipe(steps=1000, batch=64, learning_rate=2e-3, weight_decay=0.05),
        text=Recipe(steps=600, batch=256, learning_rate=1e-3, weight_decay=0.1),
        autoencoder=Recipe(steps=4000, batch=24, learning_rate=1.5e-3, ema=0.995),
        denoiser=Recipe(steps=4200, batch=32, learning_rate=1e-3, ema=0.999),
        vision=Recipe(steps=800, batch=128, learning_rate=1e-3, weight_decay=0.1),
        judge=Recipe(steps=1000, batch=64, learning_rate=2e-3, weight_decay=0.05),
        card_images=512,
    ),
    # For one data-centre GPU, bf16.
    "gpu": Preset(
        renders=200_000,
        teacher=Recipe(steps=6000, batch=256, learning_rate=1.5e-3, weight_decay=0.05),
        text=Recipe(steps=2000, batch=512, learning_rate=1e-3, weight_decay=0.1),
        autoencoder=Recipe(steps=20_000, batch=128, learning_rate=1e-3, ema=0.999),
        denoiser=Recipe(steps=60_000, batch=256, learning_rate=8e-4, ema=0.9995),
        vision=Recipe(steps=6000, batch=512, learning_rate=1e-3, weight_decay=0.1),
        judge=Recipe(steps=6000, batch=256, learning_rate=1.5e-3, weight_decay=0.05),
        card_images=512,
    ),
    # Seconds, to test the machinery: the result draws nothing.
    "smoke": Preset(64, TRIAL, TRIAL, replace(TRIAL, steps=4), replace(TRIAL, ema=0.9), TRIAL, TRIAL, card_images=2),
}

#: What each stage leaves in the folder: that it lies there shows that the stage is done.
MAKES = {
    "render": "renders/scenes.json",
    "teacher": "teacher/config.json",
    "text": "clip/config.json",
    "autoencoder": "vae/config.json",
    "encode": "encoded.safetensors",
    "denoiser": "unet/config.json",
    "vision": "sharp/config.json",
    "judge": "judge/config.json",
    "export": "weights/model_index.json",
}
#: The stages whose results a stage reads.
NEEDS = {
    "teacher": ("render",),
    "text": ("render", "teacher"),
    "autoencoder": ("render",),
    "encode": ("render", "text", "autoencoder"),
    "denoiser": ("encode",),
    "vision": ("render", "text"),
    "judge": ("render",),
    "export": ("text", "autoencoder", "denoiser", "vision", "judge"),
    "card": ("render", "export"),
}

#: The denoiser that training starts from, where it does not start from nothing.
START = "unet.start"
#: Parts of finished weights, and where training goes on from them.
ADOPTED = {"clip": "clip", "vae": "vae", "unet": START}

#: A stage's own lock: it may outlive the command that began it, when that is killed.
STAGE_LOCK = ".stage.lock"

#: The large activations of a training step are given back to the system and faulted in again at every step unless the
#: allocator is told to keep them: worth 15% of a step on a 2-core machine (glibc; ignored elsewhere).
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=8000000000:glibc.malloc.top_pad=268435456"
}


def train_model(
    out: Path, *, preset: str = "cpu", seed: int = 0, stages: list[str] | None = None, start_from: Path | None = None
) -> None:
    """Run ``stages`` (default: all, in order) into the folder ``out``.

    ``start_from`` is a folder of finished weights, such as the package's own: its text encoder and autoencoder are
    kept, and its denoiser is trained further instead of a new one.

    Each stage is a process of its own, so that it starts with clean memory and the allocator's settings.

    Raises:
        ShapefirstError: Bad input, before anything is written; or a stage stopped.
    """
    if preset not in PRESETS:
        raise ShapefirstError(f"There is no preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    for stage in stages or STAGES:
        if stage not in STAGES:
            raise ShapefirstError(f"There is no stage {stage!r}: choose from {', '.join(STAGES)}.")
    check_seed(seed)
    _check_order(out, stages or STAGES, adopted=("text", "autoencoder") if start_from else ())
    if start_from is not None:
        adopt(start_from, out)
    out.mkdir(parents=True, exist_ok=True)
    for stage in stages or STAGES:
        launcher, environment = [sys.executable, "-m"], {**os.environ, **ALLOCATOR}
        if stage == "denoiser" and not torch.cuda.is_available():
            workers = min(os.cpu_count() or 1, MOST)
            launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", "-m"]
            environment["OMP_NUM_THREADS"] = "1"
        command = [*launcher, "shapefirst.training.stage", str(out), preset, str(seed), stage]
        with locked(out / STAGE_LOCK, str(out)):
            pass
        if code := exit_code(command, environment):
            raise ShapefirstError(
                f"The stage {stage!r} stopped with exit code {code}: what it had reached is kept, the same command "
                "goes on from there."
            )


def adopt(weights: Path, out: Path) -> None:
    """Put the parts of finished weights where the stages that would make them look for their results.

    Raises:
        ShapefirstError: A part is missing, or not whole; nothing is copied then.
    """
    for part in ADOPTED:
        if not (weights / part / "config.json").is_file():
            raise ShapefirstError(f"{weights} holds no finished weights: it has no {part}/config.json.")
        check_configurations(sorted((weights / part).glob("*.json")))
        if not (files := sorted((weights / part).glob("*.safetensors"))):
            raise ShapefirstError(f"{weights} holds no finished weights: {part} has no *.safetensors.")
        check_whole(files)
    for part, target in ADOPTED.items():
        if not (out / target).exists():
            shutil.copytree(weights / part, out / f"{target}.part", dirs_exist_ok=True)
            (out / f"{target}.part").rename(out / target)


def _check_order(out: Path, stages: Sequence[str], adopted: Sequence[str]) -> None:
    """Raise ShapefirstError unless what each stage reads lies in ``out`` or is made by a stage before it."""
    there = {stage for stage, result in MAKES.items() if (out / result).exists()} | set(adopted)
    for stage in stages:
        if lacking := [need for need in NEEDS.get(stage, ()) if need not in there]:
            raise ShapefirstError(
                f"The stage {stage!r} needs what {' and '.join(map(repr, lacking))} would have left in {out}: run "
                "that first, or all stages."
            )
        there.add(stage)
