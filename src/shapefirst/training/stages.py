"""``shapefirst train-pocket``: the stages that make the embedded models, each resumable, deterministic in the seed.

pocket       render -> teacher -> text -> autoencoder -> encode -> denoiser -> vision -> judge -> export -> card
pocket-dit   render -> language -> encode -> coarse -> denoiser -> export -> card

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
from typing import Final

import torch

from shapefirst.checks import check_seed
from shapefirst.errors import ShapefirstError
from shapefirst.files import locked
from shapefirst.models.catalogue import POCKET
from shapefirst.models.disk import check_configurations, check_whole
from shapefirst.training.ending import exit_code
from shapefirst.training.loop import Recipe


@dataclass(frozen=True)
class Curriculum:
    """How one model is made.

    Attributes:
        stages: In order.
        kept: Parts of finished weights of that model that are taken over by ``start_from``, and where to.
        borrowed: Parts of the embedded pocket that are taken over in any case.
        padding: Whether the text encoder's padding is trained to carry the prompt (`training.text`).
        white_noise: Or noise of the latents' own spectrum (`training.noise`).
    """

    stages: tuple[str, ...]
    kept: tuple[tuple[str, str], ...]
    borrowed: tuple[tuple[str, str], ...] = ()
    padding: bool = True
    white_noise: bool = True

    @property
    def reads_t5(self) -> bool:
        """Whether the denoiser is a transformer that reads a T5, instead of a U-Net that reads a CLIP."""
        return "language" in self.stages

    def recipes(self, preset: Preset) -> dict[str, Recipe]:
        """The recipe of each stage that learns, in their order."""
        own = {stage: getattr(preset, stage, None) for stage in self.stages}
        if self.reads_t5:
            own["denoiser"] = preset.transformer
        return {stage: recipe for stage, recipe in own.items() if recipe is not None}


#: The denoiser that training starts from, where it does not start from nothing.
START = "denoiser.start"
_KEPT = (("clip", "clip"), ("vae", "vae"), ("unet", START))
_SCORES = (("clip", "sharp"), ("judge", "judge"))
CURRICULA: Final = {
    "pocket": Curriculum(
        ("render", "teacher", "text", "autoencoder", "encode", "denoiser", "vision", "judge", "export", "card"),
        (*_KEPT, *_SCORES),
    ),
    "pocket-dit": Curriculum(
        ("render", "language", "encode", "coarse", "denoiser", "export", "card"),
        (("text_encoder", "t5"), ("tokenizer", "t5"), ("transformer", START)),
        (("vae", "vae"), *_SCORES),
    ),
    # For the studies of causes: pocket with one thing changed, and everything else as it is.
    "pocket-equal-snr": Curriculum(
        ("render", "encode", "denoiser", "export"),
        _KEPT,
        (("clip", "clip"), ("vae", "vae"), *_SCORES),
        white_noise=False,
    ),
    "pocket-plain-padding": Curriculum(
        ("render", "teacher", "text", "encode", "denoiser", "export"), _KEPT, (("vae", "vae"), *_SCORES), padding=False
    ),
}


@dataclass(frozen=True)
class Preset:
    """How much of everything. Seconds a step and minutes are in the model card of the weights that it made.

    ``pairs`` is the share of renders with two objects.
    """

    renders: int
    teacher: Recipe
    text: Recipe
    autoencoder: Recipe
    denoiser: Recipe
    vision: Recipe
    judge: Recipe
    language: Recipe
    coarse: Recipe
    transformer: Recipe
    card_images: int
    pairs: float = 0.5


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
        language=Recipe(steps=1200, batch=64, learning_rate=1e-3),
        coarse=Recipe(steps=4000, batch=64, learning_rate=1e-3, ema=0.998),
        # After 1,500 steps 39% of pictures of two objects had both nouns, after 4,000 more 88%.
        transformer=Recipe(steps=6000, batch=64, learning_rate=5e-4, ema=0.998),
        card_images=512,
    ),
    # For one data-centre GPU, bf16. Both denoisers at once took 0.23 and 0.16 seconds a step on an H100, most of them
    # the time in which Python starts kernels.
    "gpu": Preset(
        renders=150_000,
        teacher=Recipe(steps=1000, batch=64, learning_rate=2e-3, weight_decay=0.05),
        text=Recipe(steps=600, batch=256, learning_rate=1e-3, weight_decay=0.1),
        autoencoder=Recipe(steps=20_000, batch=128, learning_rate=1e-3, ema=0.999),
        denoiser=Recipe(steps=3000, batch=1536, learning_rate=1e-3, ema=0.999),
        vision=Recipe(steps=2000, batch=512, learning_rate=1e-3, weight_decay=0.1),
        judge=Recipe(steps=2000, batch=256, learning_rate=1.5e-3, weight_decay=0.05),
        language=Recipe(steps=3000, batch=256, learning_rate=1e-3),
        coarse=Recipe(steps=3000, batch=1536, learning_rate=1e-3, ema=0.999),
        transformer=Recipe(steps=5000, batch=1536, learning_rate=6e-4, ema=0.999),
        card_images=512,
    ),
    # Seconds, to test the machinery: the result draws nothing.
    "smoke": Preset(
        64,
        *(TRIAL, TRIAL, replace(TRIAL, steps=4), replace(TRIAL, ema=0.9), TRIAL, TRIAL, TRIAL),
        *(replace(TRIAL, ema=0.9), replace(TRIAL, ema=0.9)),
        card_images=2,
    ),
}

_LAST: Final = Recipe(steps=900, batch=96, learning_rate=3e-4, ema=0.995)
#: For 2 cores, to train a finished denoiser further (--start-from), mostly on pairs: an hour with all stages, half
#: of it for the denoiser. Single objects are learned by then; which attribute is whose is not.
PRESETS["finish"] = replace(
    PRESETS["cpu"],
    renders=64_000,
    denoiser=_LAST,
    transformer=replace(PRESETS["cpu"].transformer, steps=4000),
    pairs=0.85,
)
#: For one data-centre GPU, to the same end: 98 seconds on an H100 for the denoiser, five minutes with all stages.
PRESETS["finish-gpu"] = replace(
    PRESETS["finish"],
    renders=120_000,
    denoiser=Recipe(steps=1100, batch=1024, learning_rate=6e-4, ema=0.999),
)

#: What each stage leaves in the folder: that it lies there shows that the stage is done.
MAKES = {
    "render": "renders/scenes.json",
    "teacher": "teacher/config.json",
    "text": "clip/config.json",
    "language": "t5/tokenizer_config.json",
    "autoencoder": "vae/config.json",
    "encode": "encoded.safetensors",
    "coarse": f"{START}/config.json",
    "denoiser": "denoiser/config.json",
    "vision": "sharp/config.json",
    "judge": "judge/config.json",
    "export": "weights/model_index.json",
}
#: The stages whose results a stage reads, where the model has these stages.
NEEDS = {
    "teacher": ("render",),
    "text": ("render", "teacher"),
    "autoencoder": ("render",),
    "encode": ("render", "text", "language", "autoencoder"),
    "coarse": ("encode",),
    "denoiser": ("encode", "coarse"),
    "vision": ("render", "text"),
    "judge": ("render",),
    "export": ("text", "autoencoder", "denoiser", "vision", "judge"),
    "card": ("render", "export"),
}

#: A stage's own lock: it may outlive the command that began it, when that is killed.
STAGE_LOCK = ".stage.lock"

#: The large activations of a training step are given back to the system and faulted in again at every step unless the
#: allocator is told to keep them: worth 15% of a step on a 2-core machine (glibc; ignored elsewhere).
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=8000000000:glibc.malloc.top_pad=268435456"
}


def train_model(
    out: Path,
    *,
    model: str = "pocket",
    preset: str = "cpu",
    seed: int = 0,
    stages: list[str] | None = None,
    start_from: Path | None = None,
) -> None:
    """Run ``stages`` (default: all of the model's, in order) into the folder ``out``.

    ``start_from`` is a folder of finished weights, such as the package's own: its text encoder, its autoencoder and
    what scores pictures are kept, and its denoiser is trained further instead of a new one.

    Each stage is a process of its own, so that it starts with clean memory and the allocator's settings.

    Raises:
        ShapefirstError: Bad input, before anything is written; or a stage stopped.
    """
    if model not in CURRICULA:
        raise ShapefirstError(f"There is no model {model!r} to train: choose one of {', '.join(CURRICULA)}.")
    curriculum = CURRICULA[model]
    if preset not in PRESETS:
        raise ShapefirstError(f"There is no preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    for stage in stages or curriculum.stages:
        if stage not in curriculum.stages:
            raise ShapefirstError(f"{model} has no stage {stage!r}: choose from {', '.join(curriculum.stages)}.")
    check_seed(seed)
    parts = [(POCKET / part, part, target) for part, target in curriculum.borrowed]
    parts += [(start_from / part, part, target) for part, target in curriculum.kept if start_from is not None]
    _check_order(out, curriculum, stages or curriculum.stages, adopted=[target for *_, target in parts])
    adopt(parts, out)
    out.mkdir(parents=True, exist_ok=True)
    for stage in stages or curriculum.stages:
        if stage == "teacher" and (out / MAKES["text"]).exists():
            print("teacher: left out, as the text encoder that learns from it is there", flush=True)
            continue
        launcher, environment = [sys.executable, "-m"], {**os.environ, **ALLOCATOR, "TRANSFORMERS_VERBOSITY": "error"}
        if stage in ("coarse", "denoiser") and not torch.cuda.is_available():
            launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={min(_cores(), MOST)}", "-m"]
            environment["OMP_NUM_THREADS"] = "1"
        command = [*launcher, "shapefirst.training.stage", str(out), model, preset, str(seed), stage]
        with locked(out / STAGE_LOCK, str(out)):
            pass
        if code := exit_code(command, environment):
            raise ShapefirstError(
                f"The stage {stage!r} stopped with exit code {code}: what it had reached is kept, the same command "
                "goes on from there."
            )


def _cores() -> int:
    """Those that this process may use, where the system tells: `taskset` leaves some to others."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def adopt(parts: Sequence[tuple[Path, str, str]], out: Path) -> None:
    """Put parts of finished weights where the stages that would make them look for their results.

    Args:
        parts: (where it lies, what it is called, its name in ``out``); two of one name are put together.
        out: Nothing in it is replaced.

    Raises:
        ShapefirstError: A part is missing, or not whole; nothing is copied then.
    """
    for folder, part, _ in parts:
        wanted = "tokenizer_config.json" if part == "tokenizer" else "config.json"
        if not (folder / wanted).is_file():
            raise ShapefirstError(f"{folder.parent} holds no finished weights: it has no {part}/{wanted}.")
        check_configurations(sorted(folder.glob("*.json")))
        if not (files := sorted(folder.glob("*.safetensors"))) and part != "tokenizer":
            raise ShapefirstError(f"{folder.parent} holds no finished weights: {part} has no *.safetensors.")
        check_whole(files)
    for target in dict.fromkeys(target for *_, target in parts):
        if not (out / target).exists():
            for folder, _, name in parts:
                if name == target:
                    shutil.copytree(folder, out / f"{target}.part", dirs_exist_ok=True)
            (out / f"{target}.part").rename(out / target)


def _check_order(out: Path, curriculum: Curriculum, stages: Sequence[str], adopted: Sequence[str]) -> None:
    """Raise ShapefirstError unless what each stage reads is in ``out``, adopted or made by a stage before it."""
    there = {s for s, made in MAKES.items() if (out / made).exists() or Path(made).parts[0] in adopted}
    for stage in stages:
        needs = [need for need in NEEDS.get(stage, ()) if need in curriculum.stages]
        if lacking := [need for need in needs if need not in there]:
            raise ShapefirstError(
                f"The stage {stage!r} needs what {' and '.join(map(repr, lacking))} would have left in {out}: run "
                "that first, or all stages."
            )
        there.add(stage)
