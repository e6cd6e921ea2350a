"""Stage: ``MODEL_CARD.md`` beside the weights, with its figures as measured, the loss curves and a grid of samples."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.files import save_text
from shapefirst.models import MODELS, load
from shapefirst.models.machine import hardware
from shapefirst.training import quality
from shapefirst.training.quality import Figure, fresh_scenes
from shapefirst.training.stages import CURRICULA, PRESETS
from shapefirst.world.vocabulary import ATTRIBUTES, HELD_OUT, NOUNS, RELATIONS

GRID_SEED = 64
TABLE_HEAD = "| figure | value | 95% interval | n | bar |\n|---|---|---|---|---|"
_TEXT = """# Model card: {model}

A text-to-image latent diffusion model for a small procedural world, made to study and demonstrate how text steers such
models. On disk it is an ordinary diffusers `{pipeline}` (float16 safetensors).

![64 samples: fresh prompts, one seed each, none selected](samples.png)

64 samples, fresh prompts in the order they were drawn, one seed each, none selected: DDIM, 50 steps, guidance scale
{scale:g}.

## What it knows
- {nouns} nouns: {noun_list}.
- {colours} attributes: {attribute_list}.
- Relations between two objects: {relation_list}.
- {held_out} of the {combinations} attribute-noun combinations were held out of training, alone and in pairs.

## Parts
| part | class | parameters | bytes on disk |
|---|---|---|---|
{parts}

64 x 64 pixels, 16 x 16 x 4 latents, scaled-linear betas, epsilon prediction, {positions}.

## Training
{renders:,} procedural renders ({pairs:.0%} with two objects), silhouettes from @mdi/svg (Apache-2.0), no other data.
Seed {seed}, preset `{preset}`, {hardware}. The command:
`shapefirst train-pocket --model {model} --preset {preset} --seed {seed} --out DIR`.

| stage | steps | batch | learning rate | minutes | last logged loss |
|---|---|---|---|---|---|
{stages}

Minutes are wall-clock on a machine that did other work beside.{remarks}

![loss curves](losses.png)

## Measured
`python benchmarks/pocket_quality.py --weights DIR/weights` prints this table. DDIM, 50 steps; n prompts, each with its
own seed, drawn for this measurement; "right" is the judge's verdict; 95% intervals (Wilson's for shares).

{table_head}
{figures}

## Guidance
The default guidance scale is {scale:g}: below it pictures look alike, above it light objects get halos and textures
coarsen. At the paper's 7.5, which the table above has too, pictures are still sensible.

## Limits
It draws nothing but its world: words that it never saw move the picture without meaning anything. Objects are flat
silhouettes, 64 pixels wide. Of two objects in one picture not each has its own attribute (the table has the shares).
{of_text} The judge is a small classifier trained on renders: it forgives smears that a person sees, so look at the
samples as well. Nothing here says anything about photographs or people.

## Licence
Weights and code: Apache-2.0. Silhouettes: @mdi/svg, Apache-2.0 (Pictogrammers).
"""


_OF_CLIP = {
    "pipeline": "StableDiffusionPipeline",
    "positions": "77 prompt positions padded with [EOS]",
    "of_text": """Its text encoder was trained to say at every position of the padding what the image shows where: that
padding holds the prompt is a design here, not a discovery.""",
}
_OF_T5 = {
    "pipeline": "PixArtAlphaPipeline",
    "positions": "120 prompt positions, padding masked",
    "of_text": """Its text encoder was trained on texts alone, and frozen. The judge and the CLIP that score it are
pocket's, and lie with pocket in the package.""",
}


def write(parts: Path, weights: Path, model: str, preset_name: str, seed: int) -> None:
    """Measure ``weights`` and write the card, ``samples.png``, ``losses.png`` and ``figures.json`` into them."""
    preset, curriculum = PRESETS[preset_name], CURRICULA[model]
    recipes = curriculum.recipes(preset)
    scale = MODELS["pocket"].guidance_scale
    logs = {stage: _log(file) for stage in recipes if (file := parts / f"{stage}.jsonl").exists()}
    loss_curves(logs, weights / "losses.png")
    figures = quality.measure_model(
        weights, count=preset.card_images, others=max(2, preset.card_images // 4), guidance_scale=scale
    )
    _record(weights, figures, {"seed": seed, "preset": preset_name})
    sample_grid(weights, scale).save(weights / "samples.png", optimize=True)
    captions = json.loads((parts / "renders" / "scenes.json").read_text())["captions"]
    text = _TEXT.format(
        model=model,
        **(_OF_T5 if curriculum.reads_t5 else _OF_CLIP),
        scale=scale,
        nouns=len(NOUNS),
        noun_list=", ".join(NOUNS),
        colours=len(ATTRIBUTES),
        attribute_list=", ".join(ATTRIBUTES),
        relation_list=", ".join(f"“{r}”" for r in RELATIONS),
        held_out=len(HELD_OUT),
        combinations=len(NOUNS) * len(ATTRIBUTES),
        parts="\n".join(_parts(weights, ("clip", "judge") if curriculum.reads_t5 else ())),
        renders=len(captions),
        pairs=sum(c.split().count("a") == 2 for c in captions) / len(captions),
        seed=seed,
        preset=preset_name,
        hardware=hardware(),
        stages="\n".join(
            f"| {stage} | {log[-1]['step']:,} | {recipes[stage].batch} | {recipes[stage].learning_rate:g} "
            f"| {log[-1]['seconds'] / 60:.0f} | {log[-1]['loss']:.4f} |"
            if (log := logs.get(stage))
            else f"| {stage} | kept from the weights that this began with | | | | |"
            for stage in recipes
        ),
        table_head=TABLE_HEAD,
        figures="\n".join(table_rows(figures)),
        remarks="".join(f" {line}" for line in _remarks(parts)),
    )
    (weights / "MODEL_CARD.md").write_text(text)


def renew(weights: Path, figures: list[Figure]) -> None:
    """Put figures that were measured anew into the card beside ``weights``: its table, and ``figures.json``."""
    kept = json.loads((weights / "figures.json").read_text())
    card = weights / "MODEL_CARD.md"
    before, _, after = card.read_text().partition(f"{TABLE_HEAD}\n")
    _, blank, rest = after.partition("\n\n")
    save_text("\n".join([f"{before}{TABLE_HEAD}", *table_rows(figures)]) + blank + rest, card)
    _record(weights, figures, {name: kept[name] for name in ("seed", "preset")})


def _record(weights: Path, figures: list[Figure], made_by: dict[str, Any]) -> None:
    record = {"hardware": hardware(), **made_by, "figures": [asdict(f) for f in figures]}
    save_text(json.dumps(record, indent=1) + "\n", weights / "figures.json")


def table_rows(figures: list[Figure]) -> list[str]:
    """Markdown rows of the measured figures."""
    rows = []
    for f in figures:
        show = (lambda v: f"{v:.1%}") if f.unit == "share" else (lambda v: f"{v:.2f}")
        unit = "" if f.unit == "share" else f" {f.unit}"
        bar = "" if f.bar is None else f">= {show(f.bar)}{'' if f.reached else ' (missed)'}"
        interval = f"{show(f.low)} to {show(f.high)}" if f.unit != "points" else ""
        rows.append(f"| {f.name} | {show(f.value)}{unit} | {interval} | {f.n} | {bar} |")
    return rows


def sample_grid(weights: Path, scale: float) -> Image.Image:
    """64 fresh prompts, one seed each, eight in a row, each under its prompt."""
    pipe = load(weights, dtype="float32")
    prompts = [s.caption for s in fresh_scenes(64, GRID_SEED)]
    images = quality.draw(pipe, prompts, GRID_SEED, guidance_scale=scale)
    cells = [Cell(im, p) for im, p in zip(images, prompts, strict=True)]
    return contact_sheet([cells[i : i + 8] for i in range(0, 64, 8)], picture_width=128)


def loss_curves(logs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """One panel a stage, logarithmic, smoothed over 20 logged values."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(1, len(logs), figsize=(3.2 * len(logs), 2.6), layout="constrained", squeeze=False)
    for axis, (stage, log) in zip(axes[0], logs.items(), strict=True):
        steps, loss = np.array([r["step"] for r in log]), np.array([r["loss"] for r in log])
        axis.semilogy(steps, loss, color="0.8", linewidth=0.8)
        window = min(20, len(loss))
        axis.semilogy(steps[window - 1 :], np.convolve(loss, np.ones(window) / window, "valid"), color="C0")
        axis.set(title=stage, xlabel="training step", ylabel="loss")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _log(path: Path) -> list[dict[str, Any]]:
    """The rows of a training log; a step that was repeated after an interruption counts once."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return list({r["step"]: r for r in rows}.values())


def _remarks(parts: Path) -> list[str]:
    """What a person noted about this run in ``remarks.txt``, where the recipe alone would not tell the whole truth."""
    file = parts / "remarks.txt"
    return file.read_text().splitlines() if file.exists() else []


def _parts(weights: Path, elsewhere: Collection[str]) -> list[str]:
    """A row for each part of the model, but for those that the package has in another folder."""
    from safetensors import safe_open

    rows = []
    for path in sorted(one for one in weights.rglob("*.safetensors") if one.parent.name not in elsewhere):
        with safe_open(path, "np") as f:
            count = sum(math.prod(f.get_slice(name).get_shape()) for name in f.keys())  # noqa: SIM118 (not a dict)
        name = str(path.parent.relative_to(weights))
        config = json.loads((path.parent / "config.json").read_text())
        kind = config.get("_class_name") or (config.get("architectures") or ["Judge"])[0]
        rows.append(f"| {name} | {kind} | {count / 1e6:.2f} M | {path.stat().st_size / 1e6:.1f} MB |")
    return rows
