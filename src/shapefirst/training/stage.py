"""One of the stages, in a process of its own: python -m shapefirst.training.stage OUT MODEL PRESET SEED STAGE."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from shapefirst.files import locked
from shapefirst.measure.judge import Judge
from shapefirst.models.catalogue import NOISE_FILTER
from shapefirst.training import autoencoder, card, denoiser, export, judge, language, noise, questions, text
from shapefirst.training.ending import end_with_the_command
from shapefirst.training.loop import TrainingRun
from shapefirst.training.stages import CURRICULA, MAKES, PRESETS, STAGE_LOCK, START, Curriculum, Preset
from shapefirst.world import renders

#: What a stage trains where the denoiser is a transformer.
BUILDS = {"coarse": partial(denoiser.build_transformer, patch_size=4), "denoiser": denoiser.build_transformer}


def run_stage(out: Path, model: str, preset_name: str, seed: int, stage: str) -> None:
    """Run one stage in this process, unless its result lies in ``out`` already."""
    if stage in MAKES and stage != "export" and (out / MAKES[stage]).exists():
        print(f"{stage}: done before, kept")
        return
    preset, curriculum = PRESETS[preset_name], CURRICULA[model]
    run = TrainingRun(out, seed, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if stage == "render":
        renders.store(renders.make(preset.renders, seed, pairs=preset.pairs), out / "renders")
    elif stage == "language":
        tokenizer, t5 = language.train_language(preset.language, run, preset.renders)
        _keep(out / "t5", t5.save_pretrained, tokenizer.save_pretrained)
    elif stage == "encode":
        _encode(run, curriculum)
    elif stage in ("coarse", "denoiser"):
        _denoiser(stage, preset, run, curriculum)
    elif stage == "export":
        export.export(out, out / "weights")
    elif stage == "card":
        card.write(out, out / "weights", model, preset_name, seed)
    else:
        _fit(stage, preset, run, renders.read(out / "renders"), padding=curriculum.padding)


def _fit(stage: str, preset: Preset, run: TrainingRun, world: renders.Renders, *, padding: bool) -> None:
    """The stages that learn from the pictures themselves."""
    recipe, out = getattr(preset, stage), run.folder
    if stage == "teacher":
        # The image encoder that the text encoder learns from: built like the judge, but never asked to judge.
        _keep(out / "teacher", judge.train_judge(world, recipe, replace(run, seed=run.seed + 1), stage).save)
    elif stage == "judge":
        _keep(out / "judge", judge.train_judge(world, recipe, run).save)
    elif stage == "text":
        tokenizer, clip = text.train_text(world, Judge.load(out / "teacher"), recipe, run, padding=padding)
        _keep(out / "clip", clip.save_pretrained, tokenizer.save_pretrained)
    elif stage == "autoencoder":
        _keep(out / "vae", autoencoder.train_autoencoder(world, recipe, run).save_pretrained)
    else:
        tokenizer, clip = (kind.from_pretrained(out / "clip") for kind in (CLIPTokenizer, CLIPModel))
        sharp = text.sharpen(world, tokenizer, clip, recipe, run)
        _keep(out / "sharp", sharp.save_pretrained, tokenizer.save_pretrained)


def _encode(run: TrainingRun, curriculum: Curriculum) -> None:
    """What the denoiser learns from, computed once: latents of the images, states of the captions."""
    out = run.folder
    world = renders.read(out / "renders")
    latents = autoencoder.encode_all(AutoencoderKL.from_pretrained(out / "vae").to(run.device), world)
    t5 = curriculum.reads_t5
    encoder = (
        T5EncoderModel.from_pretrained(out / "t5", dtype=torch.float32)
        if t5
        else CLIPModel.from_pretrained(out / "clip", dtype=torch.float32).text_model
    )
    tokenizer = (T5Tokenizer if t5 else CLIPTokenizer).from_pretrained(out / ("t5" if t5 else "clip"))
    read = denoiser.encode_captions(world.captions, tokenizer, encoder.to(run.device), masked=t5)
    kept = {"latents": latents.contiguous(), "states": read.states, "rows": read.rows}
    kept |= {"labels": world.labels, "where": world.where}
    save_file(kept | ({} if read.masks is None else {"masks": read.masks}), out / "encoded.part")
    (out / "encoded.part").rename(out / "encoded.safetensors")


def _denoiser(stage: str, preset: Preset, run: TrainingRun, curriculum: Curriculum) -> None:
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    encoded, start = load_file(run.folder / "encoded.safetensors"), run.folder / START
    h = None if curriculum.white_noise else noise.filter_like(encoded["latents"])
    model = denoiser.train_denoiser(
        BUILDS[stage] if curriculum.reads_t5 else denoiser.build_unet,
        encoded["latents"],
        denoiser.Captions(encoded["states"], encoded.get("masks"), encoded["rows"]),
        questions.Contents(encoded["labels"], encoded["where"]),
        curriculum.recipes(preset)[stage],
        run,
        start_from=start if start.exists() else None,
        filter_of_noise=h,
        stage=stage,
    )
    if not dist.is_initialized() or dist.get_rank() == 0:
        if h is not None:
            save_file({"filter": h.contiguous()}, run.folder / NOISE_FILTER)
        model, target = (denoiser.refined(model), START) if stage == "coarse" else (model, "denoiser")
        _keep(run.folder / target, model.save_pretrained)
    if dist.is_initialized():
        dist.destroy_process_group()


def _keep(target: Path, *saves: Callable[[Path], Any]) -> None:
    """Save a stage's result: beside its place first, so that what lies there is whole."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for save in saves:
        save(part)
    part.rename(target)


if __name__ == "__main__":
    end_with_the_command()
    folder, leads = Path(sys.argv[1]), os.environ.get("RANK", "0") == "0"
    with locked(folder / STAGE_LOCK, str(folder)) if leads else nullcontext():
        run_stage(folder, *sys.argv[2:4], int(sys.argv[4]), sys.argv[5])
