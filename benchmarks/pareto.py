"""What each way to sample faster saves, and how far it moves the picture: ours, the paper's, and everybody else's.

    python benchmarks/pareto.py sample [--sampler ddim] [--prompts 256] [--out out/pareto]      (hours; resumes)
    python benchmarks/pareto.py time   [--rounds 7]                                             (on an idle machine)
    python benchmarks/pareto.py report                                                          (tables and the plot)

``sample`` draws the same prompts and seeds with every method and keeps the images; ``time`` takes whole calls of 8
images with all methods in turn, the stock pipeline between every few of them; ``report`` compares, and writes to
``benchmarks/results``. Prompts are fresh scenes of pocket's world, none of them among those that policies are tuned
on. Peers need ``pip install '.[bench]'``; one that fails is listed with its error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
from rich.progress import track

from shapefirst import TextSchedule, guide, load
from shapefirst.cli.tune import CALIBRATION_SEED
from shapefirst.errors import first_line
from shapefirst.files import atomic, save_text
from shapefirst.measure import l1, psnr, ssim
from shapefirst.measure.clip import ClipSimilarity, load_clip
from shapefirst.measure.intervals import Interval, bootstrap
from shapefirst.measure.judge import Judge
from shapefirst.models import default_guidance_scale, locate
from shapefirst.prompts import mixed
from shapefirst.sampling.loop import generators
from shapefirst.training.quality import fresh_scenes
from shapefirst.world.scenes import Scene

STEPS = 50
BATCH = 8
FIRST_SEED = 70_000
REFERENCE = "full guidance"
FINE_PROMPTS = 64  # of a reference without the 50 steps' own error
# diffusers' DPM-Solver++ spaces N "leading" timesteps by floor(1000 / (N + 1)): 200 steps begin at t = 801, 199 at 996.
FINE_STEPS = {"ddim": 200, "dpm-solver": 199}

BETWEEN = 4  # methods between two calls of the stock pipeline that they are compared with
SAVINGS = (0.25, 0.33, 0.4, 0.5, 0.6)  # of the time, to compare at
SLACK = 0.01  # of the time: what counts as getting there
OURS = {
    "ours": "black",
    "ours, by tolerance": "dimgray",
    "ours, text branch kept": "gray",
    "ours with fewer steps": "navy",
}
SAME = 99.0  # dB, in the place of the infinity of identical images

Block = Callable[[Any], AbstractContextManager[Callable[..., Any]]]


@dataclass(frozen=True)
class Method:
    """One point of the plot: a way to sample, at one setting."""

    family: str
    setting: str
    steps: int
    block: Block
    prompts: int | None = None

    @property
    def name(self) -> str:
        return named(f"{self.family} {self.setting}")


def named(words: str) -> str:
    """For files."""
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")


@contextmanager
def stock(pipe: Any) -> Iterator[Callable[..., Any]]:
    yield pipe


@contextmanager
def guided(pipe: Any, what: Any = None, **how: Any) -> Iterator[Callable[..., Any]]:
    with guide(pipe, what, **how):
        yield pipe


def fine(sampler: str) -> Method:
    """The reference of many steps."""
    steps = FINE_STEPS[sampler]
    return Method(REFERENCE, f"in {steps} steps", steps, stock, FINE_PROMPTS)


def methods(sampler: str) -> list[Method]:
    """All of them, the reference first and the one of many steps last."""

    def at(schedule: TextSchedule) -> Block:
        return partial(guided, what=schedule)

    found = [Method(REFERENCE, "", STEPS, stock)]
    found += [Method("fewer steps", f"{n} steps", n, stock) for n in (48, 38, 33, 30, 25, 20, 15)]
    found += [Method("the paper", f"text in {k}", STEPS, at(TextSchedule.until(k))) for k in (40, 25, 17, 10, 5)]
    found += [
        Method("text branch kept", f"text in {k}", STEPS, at(TextSchedule.until(k, keep="text"))) for k in (25, 17, 10)
    ]
    found += [Method("diffusers' callback", "from step 25", STEPS, partial(peers.cutoff_callback, step=25))]
    found += [Method("DeepCache", f"interval {n}", STEPS, partial(peers.deepcache, interval=n)) for n in (2, 3, 5)]
    found += [Method("T-GATE", f"gate {k}", STEPS, partial(peers.tgate, gate=k)) for k in (25, 15, 10)]
    found += [Method("T-GATE", "gate 25, self-attention every 5th", STEPS, partial(peers.tgate, gate=25, every=5))]
    found += [
        Method("Adaptive Guidance", f"cosine {c:g}", STEPS, partial(peers.adaptive_guidance, threshold=c))
        for c in (0.991, 0.9985, 0.999)
    ]
    found += [Method("LinearAG", "", STEPS, fitted_linear_ag)]
    found += [
        Method("ours", f"budget {b:g}", STEPS, at(TextSchedule.within(b))) for b in (0.75, 0.67, 0.6, 0.5, 0.4, 0.3)
    ]
    found += [
        Method("ours, by tolerance", f"tol {t:g}", STEPS, partial(guided, tol=t)) for t in (0.003, 0.006, 0.01, 0.02)
    ]
    found += [
        Method("ours, text branch kept", f"budget {b:g}", STEPS, at(TextSchedule.within(b, keep="text")))
        for b in (0.75, 0.6)
    ]
    found += [
        Method("ours with fewer steps", f"{n} steps, budget {b:g}", n, at(TextSchedule.within(b)))
        for n, b in ((38, 0.66), (33, 0.6), (25, 0.6))
    ]
    return [*found, fine(sampler)]


@contextmanager
def fitted_linear_ag(pipe: Any) -> Iterator[Callable[..., Any]]:
    if not hasattr(pipe, "_linear_ag"):
        prompts = mixed(24, CALIBRATION_SEED)
        pipe._linear_ag = peers.fit_linear_ag(pipe, prompts, guidance_scale=default_guidance_scale("pocket"))
    with peers.linear_ag(pipe, pipe._linear_ag) as call:
        yield call


def scenes(count: int) -> list[Scene]:
    """Fresh scenes with distinct captions, none of them a prompt that policies are tuned on."""
    tuned = set(mixed(64, CALIBRATION_SEED))
    fresh = {s.caption: s for s in fresh_scenes(2 * count + 64, FIRST_SEED) if s.caption not in tuned}
    return list(fresh.values())[:count]


@contextmanager
def counting(pipe: Any) -> Iterator[list[int]]:
    """Rows that the denoiser really computes, call by call."""
    rows: list[int] = []
    handle = pipe.unet.conv_in.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


def draw(call: Callable[..., Any], prompts: Sequence[str], first: int, steps: int) -> np.ndarray:
    """(B, H, W, 3) uint8; image i has seed ``FIRST_SEED + first + i``."""
    images = call(
        list(prompts),
        num_inference_steps=steps,
        guidance_scale=default_guidance_scale("pocket"),
        generator=generators(range(FIRST_SEED + first, FIRST_SEED + first + len(prompts))),
        output_type="np",
    ).images
    return np.rint(images * 255).astype(np.uint8)


def sample(given: argparse.Namespace) -> None:
    """Images of every method that has none yet."""
    pipe = load("pocket", sampler=given.sampler)
    pipe.set_progress_bar_config(disable=True)
    captions = [scene.caption for scene in scenes(given.prompts)]
    folder = given.out / given.sampler
    for method in methods(given.sampler):
        if given.only and not re.search(given.only, method.name):
            continue
        file = folder / f"{method.name}.npz"
        if file.is_file() or (folder / f"{method.name}.error").is_file():
            continue
        part = captions[: method.prompts]
        images, evaluations = [], 0
        try:
            with method.block(pipe) as call, counting(pipe) as rows:
                for first in track(range(0, len(part), 16), f"{given.sampler}: {method.name}"):
                    images.append(draw(call, part[first : first + 16], first, method.steps))
                evaluations = sum(rows)
        except Exception as error:
            save_text(f"{type(error).__name__}: {first_line(error)}\n", folder / f"{method.name}.error")
            continue
        with atomic(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, images=np.concatenate(images), evaluations=evaluations / len(part))


def take_times(given: argparse.Namespace) -> None:
    """Seconds of one call of every method, round by round; the stock pipeline between every `BETWEEN` of them."""
    pipe = load("pocket", sampler=given.sampler)
    pipe.set_progress_bar_config(disable=True)
    captions = [scene.caption for scene in scenes(given.prompts)][:BATCH]
    folder = given.out / given.sampler
    file = folder / "seconds.json"
    rounds = json.loads(file.read_text()) if file.is_file() else []
    names = {method.name: method for method in methods(given.sampler)[:-1]}
    names = {name: method for name, method in names.items() if (folder / f"{name}.npz").is_file()}
    with stock(pipe) as call:
        draw(call, captions, 0, STEPS)
    for n in range(len(rounds), given.rounds):
        order = random.Random(n).sample(sorted(names), len(names))
        seconds: dict[str, float] = {}
        for place, name in enumerate(track(order, f"{given.sampler}: round {n + 1} of {given.rounds}")):
            if place % BETWEEN == 0:
                seconds[f"stock {place}"] = timed(pipe, stock, captions, STEPS)
            seconds[name] = timed(pipe, names[name].block, captions, names[name].steps)
        seconds["stock at the end"] = timed(pipe, stock, captions, STEPS)
        rounds.append(seconds)
        save_text(json.dumps(rounds, indent=1), file)


def savings(seconds: Mapping[str, float]) -> dict[str, float]:
    """The share of the time that each method saved in a round, against the stock calls before and after it."""
    names = list(seconds)
    stocks = [place for place, name in enumerate(names) if name.startswith("stock ")]
    found = {}
    for place, name in enumerate(names):
        if place not in stocks:
            around = [max(s for s in stocks if s < place), *(s for s in stocks if s > place)][:2]
            found[name] = 1 - seconds[name] / statistics.fmean(seconds[names[s]] for s in around)
    return found


def timed(pipe: Any, block: Block, captions: Sequence[str], steps: int) -> float:
    with block(pipe) as call:
        start = time.perf_counter()
        draw(call, captions, 0, steps)
        return time.perf_counter() - start


@dataclass(frozen=True)
class Row:
    """What was measured of a method."""

    method: Method
    evaluations: float
    l1: Interval
    psnr: Interval
    ssim: Interval
    clip: Interval
    judged: Interval
    fine: Interval | None
    time_saved: list[float] | None  # lower quartile, median, upper quartile over the rounds

    @property
    def evaluations_saved(self) -> float:
        return 1 - self.evaluations / (2 * STEPS)


def rows_of(folder: Path, count: int) -> list[Row]:
    """Every method's figures, from the images and seconds in a folder."""
    import torch
    from PIL import Image

    pocket = locate("pocket")
    assert pocket is not None, "it is part of the package"
    judge = Judge.load(pocket / "judge")
    similarity = ClipSimilarity(load_clip(pocket / "clip", called="pocket's own"))
    known = scenes(count)
    meant = [{(o.attribute, o.noun) for o in scene.objects} for scene in known]
    seconds = folder / "seconds.json"
    rounds = [savings(one) for one in json.loads(seconds.read_text())] if seconds.is_file() else []

    def images_of(name: str) -> Any:
        with np.load(folder / f"{name}.npz") as stored:
            return stored["images"], float(stored["evaluations"])

    reference, _ = images_of(named(REFERENCE))
    finer = fine(folder.name).name
    many = images_of(finer)[0] if (folder / f"{finer}.npz").is_file() else None
    found = []
    for method in track(methods(folder.name), f"comparing {folder.name}"):
        if not (folder / f"{method.name}.npz").is_file():
            continue
        images, evaluations = images_of(method.name)
        n = len(images)
        pictures = [Image.fromarray(image) for image in images]
        with torch.no_grad():
            right = [set(v.objects) == m for v, m in zip(judge.look(pictures), meant[:n], strict=True)]
        psnrs = [min(psnr(a, b), SAME) for a, b in zip(images, reference[:n], strict=True)]
        ratios = [one[method.name] for one in rounds if method.name in one]
        found.append(
            Row(
                method,
                evaluations,
                bootstrap([l1(a, b) for a, b in zip(images, reference[:n], strict=True)]),
                bootstrap(psnrs),
                bootstrap([ssim(a, b) for a, b in zip(images, reference[:n], strict=True)]),
                bootstrap(similarity.score(pictures, [Image.fromarray(b) for b in reference[:n]])),
                bootstrap([float(hit) for hit in right]),
                None if many is None else bootstrap([l1(a, b) for a, b in zip(images, many, strict=False)]),
                statistics.quantiles(ratios, n=4) if len(ratios) > 1 else None,
            )
        )
    return found


def report(given: argparse.Namespace) -> None:
    """The table, the bars and the plot."""
    folder = given.out / given.sampler
    rows = rows_of(folder, given.prompts)
    failed = [
        (method.family, file.read_text().strip())
        for method in methods(given.sampler)
        if (file := folder / f"{method.name}.error").is_file()
    ]
    results = Path(__file__).parent / "results"
    n, w = rows[0].l1.n, default_guidance_scale("pocket")
    lines = [
        f"pocket, {given.sampler}, {STEPS} steps, w = {w:g}, n = {n} prompts, image i of seed {FIRST_SEED} + i.",
        "Distances are to the fully guided image of the same seed, with 95% bootstrap intervals over prompts. Time",
        f"saved: median and middle half of {rounds_in(folder)} rounds, whole calls of {BATCH} images, float32,",
        f"{os.cpu_count()} shared cores of {platform.machine()}. DeepCache skips parts of evaluations, which count as",
        "whole ones here.",
        *(
            [f"L1 to many steps: to {FINE_STEPS[given.sampler]} fully guided ones, n = {FINE_PROMPTS}."]
            if rows[0].fine
            else []
        ),
        "",
        "L1 at equal time saved, along each method's line (linear in log L1 between its rows; a dash where it does not",
        "get there):",
        "",
        *at_equal_time(rows),
        "",
        *table(rows),
        "",
        *(f"{family} failed at batch 16: `{error}`." for family, error in failed),
    ]
    save_text("\n".join(lines) + "\n", results / f"pareto-{given.sampler}.md")
    print("\n".join(lines))
    plot(rows, results / f"pareto-{given.sampler}.png", given.sampler)


def rounds_in(folder: Path) -> int:
    file = folder / "seconds.json"
    return len(json.loads(file.read_text())) if file.is_file() else 0


def at_equal_time(rows: Sequence[Row]) -> list[str]:
    """L1 of every method at some savings of time."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        if row.l1.estimate > 0 and row.method.family != REFERENCE:
            families.setdefault(row.method.family, []).append(row)
    lines = [
        f"| method | {' | '.join(f'{s:.0%}' for s in SAVINGS)} |",
        f"|{'---|' * (len(SAVINGS) + 1)}",
    ]
    for family, members in families.items():
        members.sort(key=saved)
        x = [saved(row) for row in members]
        cells = []
        for at in SAVINGS:
            ends = [[getattr(row.l1, end) for row in members] for end in ("estimate", "low", "high")]
            found = [math.exp(np.interp(at, x, np.log(values))) for values in ends]
            cells.append("—" if at > x[-1] + SLACK else "{:.4f} ({:.4f} to {:.4f})".format(*found))
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return lines


def table(rows: Sequence[Row]) -> list[str]:
    names = ("method", "setting", "evaluations saved", "time saved", "L1", "PSNR, dB", "SSIM", "CLIP similarity")
    lines = [f"| {' | '.join((*names, 'judge: all right', 'L1 to many steps'))} |", f"|{'---|' * (len(names) + 2)}"]
    for row in rows:
        cells = [row.method.family, row.method.setting, f"{row.evaluations_saved:.0%}"]
        cells += [
            f"{row.time_saved[1]:.0%} ({row.time_saved[0]:.0%} to {row.time_saved[2]:.0%})" if row.time_saved else ""
        ]
        cells += [f"{row.l1:.5f}", f"{row.psnr:.1f}", f"{row.ssim:.4f}", f"{row.clip:.4f}", f"{row.judged:.1%}"]
        cells += [f"{row.fine:.5f}" if row.fine else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plot(rows: Sequence[Row], file: Path, sampler: str) -> None:
    """L1 on a logarithmic axis over the time saved, every family a line with its intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    families: dict[str, list[Row]] = {}
    for row in rows:
        if row.l1.estimate > 0 and row.method.family != REFERENCE:
            families.setdefault(row.method.family, []).append(row)
    marks = "osD^vP*X<>h"
    for i, (family, members) in enumerate(families.items()):
        ours = family.startswith("ours")
        members = sorted(members, key=saved)
        x, y = [100 * saved(row) for row in members], [row.l1.estimate for row in members]
        spread = [
            [max(row.l1.estimate - row.l1.low, 0) for row in members],
            [row.l1.high - row.l1.estimate for row in members],
        ]
        axes.errorbar(
            x,
            y,
            spread,
            label=family,
            marker=marks[i % len(marks)],
            lw=2.2 if ours else 1.2,
            ms=6,
            capsize=2,
            color=OURS.get(family, f"C{i}"),
            ls="-" if ours else "--",
        )
    axes.set_yscale("log")
    by = "time" if all(row.time_saved for row in rows if row.method.family != REFERENCE) else "evaluations"
    axes.set_xlabel(f"{by} saved against the stock pipeline with 50 steps (%)")
    axes.set_ylabel("L1 to the fully guided image of 50 steps (log)")
    axes.set_title(f"pocket, {sampler}, n = {rows[0].l1.n} prompts, 95% intervals: lower and further right is better")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, ncols=2)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def saved(row: Row) -> float:
    return row.time_saved[1] if row.time_saved else row.evaluations_saved


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", choices=["sample", "time", "report"])
    arguments.add_argument("--sampler", default="ddim")
    arguments.add_argument("--prompts", type=int, default=256)
    arguments.add_argument("--only", help="a regular expression: methods whose names match")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--out", type=Path, default=Path("out/pareto"))
    given = arguments.parse_args()
    {"sample": sample, "time": take_times, "report": report}[given.stage](given)


if __name__ == "__main__":
    main()
