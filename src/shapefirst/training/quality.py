"""How good pocket is, measured: by the judge on images it draws, and by closed forms on its parts.

Every figure is a share or a level with n and a 95% interval (Wilson's, for shares). Prompts and seeds are fresh: they
come from a generator that no training stage uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from shapefirst.families.layout import own_size
from shapefirst.measure.judge import Judge, Sighting
from shapefirst.models.catalogue import scorers_folder
from shapefirst.sampling.loop import generators
from shapefirst.world.renders import labels_of
from shapefirst.world.scenes import Scene, place, render, sample_scene
from shapefirst.world.vocabulary import ATTRIBUTES, HELD_OUT, NOUNS

FRESH_SEED = 20_000_000  # far from every training seed
PAPER_SCALE = 7.5
BATCH = 128


@dataclass(frozen=True)
class Figure:
    """One measured number, its 95% interval from ``low`` to ``high``, and the bar that it should reach, if any."""

    name: str
    value: float
    n: int
    low: float
    high: float
    unit: str = "share"
    bar: float | None = None

    @property
    def reached(self) -> bool | None:
        return None if self.bar is None else self.value >= self.bar


def share(name: str, hits: Sequence[bool], bar: float | None = None) -> Figure:
    """The share of hits, with Wilson's 95% interval."""
    n, p, z = len(hits), sum(hits) / len(hits), 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Figure(name, p, n, centre - half, centre + half, "share", bar)


def level(name: str, values: Sequence[float], unit: str, bar: float | None = None) -> Figure:
    """The mean of ``values`` with the normal 95% interval of the mean."""
    mean, sem = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    return Figure(name, mean, len(values), mean - 1.96 * sem, mean + 1.96 * sem, unit, bar)


def fresh_scenes(count: int, seed: int, **kinds: Any) -> list[Scene]:
    """``count`` scenes that no training set holds."""
    rng = np.random.default_rng([FRESH_SEED, seed])
    return [sample_scene(rng, **kinds) for _ in range(count)]


def fresh_held_out(count: int, seed: int) -> list[Scene]:
    """``count`` single objects that go round all held-out combinations."""
    rng = np.random.default_rng([FRESH_SEED, seed])
    combinations = sorted(HELD_OUT)
    return [place([combinations[i % len(combinations)]], None, rng) for i in range(count)]


def draw(pipe: Any, prompts: list[str], first_seed: int, *, guidance_scale: float) -> list[Image.Image]:
    """One image a prompt, of seed ``first_seed + i``."""
    images: list[Image.Image] = []
    pipe.set_progress_bar_config(disable=True)
    for start in track(range(0, len(prompts), BATCH), f"drawing {len(prompts)}, w = {guidance_scale:g}"):
        part = prompts[start : start + BATCH]
        seeds = range(first_seed + start, first_seed + start + len(part))
        options = {"guidance_scale": guidance_scale, "generator": generators(seeds), **own_size(pipe)}
        images += pipe(part, num_inference_steps=50, **options).images
    return images


def judged(
    name: str, verdicts: list[Sighting], scenes: list[Scene], bars: tuple[float | None, ...] = (None,) * 3
) -> list[Figure]:
    """Noun right, attribute right and both right, over single-object scenes."""
    seen = np.array([v.objects[0] for v in verdicts])
    right = seen == np.array([(s.objects[0].attribute, s.objects[0].noun) for s in scenes])
    parts = zip(("noun", "attribute", "both"), (right[:, 1], right[:, 0], right.all(1)), bars, strict=True)
    return [share(f"{name}: {part} right", hits.tolist(), bar) for part, hits, bar in parts]


def judged_pairs(
    name: str, verdicts: list[Sighting], scenes: list[Scene], bars: tuple[float | None, float | None] = (None, None)
) -> list[Figure]:
    """Both nouns there; each with its own attribute; and each object where the relation wants it."""
    nouns, bound, placed = [], [], []
    for verdict, scene in zip(verdicts, scenes, strict=True):
        meant = [(o.attribute, o.noun) for o in scene.in_reading_order()]
        nouns.append({n for _, n in verdict.objects} == {n for _, n in meant})
        bound.append(set(verdict.objects) == set(meant))
        placed.append(list(verdict.objects) == meant)
    return [
        share(f"{name}: both nouns right", nouns, bars[0]),
        share(f"{name}: nouns with their attributes", bound, bars[1]),
        share(f"{name}: and in the right places", placed),
    ]


def measure_model(
    folder: Path, *, count: int = 512, others: int = 128, guidance_scale: float = 4.0, seed: int = 0
) -> list[Figure]:
    """Every figure of the model card for the weights in ``folder``.

    Args:
        folder: A pipeline of that world, with what scores it (`scorers_folder`).
        count: Prompts with one object, prompts with two, and renders for the parts.
        others: Prompts of each other kind: held-out combinations, the paper's guidance scale.
        guidance_scale: The w of all but the last kind.
        seed: Of prompts and images.
    """
    from transformers import CLIPModel, CLIPTokenizer

    from shapefirst.models import load

    pipe = load(folder, dtype="float32")
    unet = getattr(pipe, "unet", None) is not None  # pocket's bars are higher than those of its transformer
    scorers = scorers_folder(folder)
    judge = Judge.load(scorers / "judge")
    singles = fresh_scenes(count, seed, pair=False)
    renders = [Image.fromarray(render(s)[0]) for s in singles]
    figures = judged("judge on fresh renders", judge.look(renders), singles, (0.98, 0.98, None))
    figures += _autoencoder(pipe.vae, judge, renders, singles)
    clip = CLIPModel.from_pretrained(scorers / "clip", dtype=torch.float32).eval()
    figures += _zero_shot(clip, CLIPTokenizer.from_pretrained(scorers / "clip"), renders, singles)

    def looked_at(scenes: list[Scene], first_seed: int, scale: float) -> list[Sighting]:
        return judge.look(draw(pipe, [s.caption for s in scenes], first_seed, guidance_scale=scale))

    base, w = FRESH_SEED + seed, f"w = {guidance_scale:g}"
    single = judged(f"one object, {w}", looked_at(singles, base, guidance_scale), singles, (0.93, 0.95, 0.90))
    figures += single
    pairs = fresh_scenes(count, seed + 1, pair=True)
    verdicts = looked_at(pairs, base + count, guidance_scale)
    figures += judged_pairs(f"two objects, {w}", verdicts, pairs, (0.70, 0.75 if unet else None))
    unseen = fresh_held_out(others, seed + 2)
    verdicts = looked_at(unseen, base + 2 * count, guidance_scale)
    figures += judged(f"held-out combination, {w}", verdicts, unseen, (None, None, single[2].value - 0.15))
    part = singles[:others]
    figures += judged(f"one object, w = {PAPER_SCALE:g}", looked_at(part, base, PAPER_SCALE), part)
    return figures


@torch.no_grad()
def _autoencoder(vae: Any, judge: Judge, renders: list[Image.Image], scenes: list[Scene]) -> list[Figure]:
    """Peak signal-to-noise, the weakest channel, and what the way through the latents costs with the judge."""
    psnr, colour, back, latents = [], [], [], []
    for start in range(0, len(renders), 32):
        x = np.stack([np.asarray(im) for im in renders[start : start + 32]])
        z = vae.encode(torch.from_numpy(x).to(vae.device).permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean
        y = vae.decode(z).sample.add(1).mul(127.5).clamp(0, 255).round().permute(0, 2, 3, 1).byte().cpu().numpy()
        error = (x.astype(np.float64) - y) / 255
        psnr += list(-10 * np.log10((error**2).mean((1, 2, 3))))
        colour += list(np.abs(error.mean((1, 2))).max(-1) * 255)
        back += [Image.fromarray(im) for im in y]
        latents.append(z)
    std = torch.cat(latents).std((0, 2, 3))
    before, after = (judged("", judge.look(ims), scenes)[2].value for ims in (renders, back))
    return [
        level("autoencoder: PSNR", psnr, "dB", 31.0),
        level("autoencoder: largest channel's mean colour error", colour, "of 255"),
        Figure(
            "autoencoder: weakest over strongest latent channel",
            float(std.min() / std.max()),
            len(renders),
            0,
            1,
            "ratio",
        ),
        Figure("autoencoder: points lost with the judge", 100 * (before - after), len(renders), 0, 100, "points"),
    ]


@torch.no_grad()
def _zero_shot(clip: Any, tokenizer: Any, renders: list[Image.Image], scenes: list[Scene]) -> list[Figure]:
    """Pocket's CLIP names single objects among all attribute-noun combinations."""
    captions = [f"a {a} {n}" for a in ATTRIBUTES for n in NOUNS]
    tokens = tokenizer(captions, padding="max_length", max_length=77, return_tensors="pt")
    pixels = torch.from_numpy(np.stack([np.asarray(im) for im in renders])).permute(0, 3, 1, 2).float() / 127.5 - 1
    best = clip(input_ids=tokens.input_ids, pixel_values=pixels).logits_per_image.argmax(-1)
    guesses = [divmod(int(i), len(NOUNS)) for i in best]
    labels = [labels_of(s) for s in scenes]
    return [
        share("CLIP on fresh renders: noun right", [g[1] == m[0] for g, m in zip(guesses, labels, strict=True)]),
        share("CLIP on fresh renders: attribute right", [g[0] == m[1] for g, m in zip(guesses, labels, strict=True)]),
    ]
