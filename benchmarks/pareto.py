"""What each way to sample faster costs in the picture: ours, and everybody else's, in the settings that people use.

    python benchmarks/pareto.py sample dpm-karras-25 [--prompts 64] [--only REGEX]     (an hour or more; resumes)
    python benchmarks/pareto.py time   dpm-karras-25 [--rounds 5]                      (on an idle machine)
    python benchmarks/pareto.py report dpm-karras-25

**keep** (settings with a number of steps): distances are to the fully guided run of that setting. Rivals are fewer
steps of the same sampler, which begin at the same timestep, and every method of `peers.RIVALS` with its authors' and
with other settings. **best** (the setting of that name): distances are to the converged picture, DPM-Solver++ in 250
steps, which UniPC in 250 has to confirm. Rivals are all of `peers.settings.STOCK` and AYS.

The same prompts and seeds throughout: fresh scenes of pocket's world, none of them among those that policies and
solvers are tuned on. Images are kept in ``--out``, where ``report`` writes to, too; without it they are in
``out/pareto``, and the report goes to ``benchmarks/results``. Peers need ``pip install '.[bench]'``; one that fails
is listed with its error.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import diffusers
import numpy as np
from peers.loop import Block
from peers.settings import RIVALS, STOCK, ays
from rich.progress import track

from shapefirst import TextSchedule, guide, load
from shapefirst.cli.tune import CALIBRATION_SEED
from shapefirst.errors import first_line
from shapefirst.files import atomic, save_text
from shapefirst.images.jobs import Sampling
from shapefirst.measure import l1, psnr
from shapefirst.measure.clip import ClipSimilarity, load_clip
from shapefirst.measure.intervals import POSITIVE, SHARE, SIGNED, Interval, bootstrap
from shapefirst.measure.judge import Judge
from shapefirst.models import default_guidance_scale, locate
from shapefirst.policies.solver import Solver
from shapefirst.prompts import mixed
from shapefirst.sampling.loop import generators
from shapefirst.training.quality import fresh_scenes
from shapefirst.tuning.search import Tuner
from shapefirst.world.scenes import Scene

#: Setting -> the sampler, of `STOCK`, and its number of steps.
SETTINGS: Final = {
    "dpm-karras-25": ("DPM++ 2M, Karras", 25),
    "euler-25": ("Euler, trailing", 25),
    "ddim-50": ("DDIM, trailing", 50),
    "dpm-20": ("DPM++ 2M, trailing", 20),
    "unipc-20": ("UniPC 2, trailing", 20),
    "deis-30": ("DEIS 2, trailing", 30),
    "euler-leading-25": ("Euler, leading", 25),
    "best": ("DPM++ 2M, trailing", 250),
}
CONFIRMING: Final = "UniPC 2, trailing"
BEST_STEPS: Final = (10, 15, 20)
FEWER: Final = (0.88, 0.76, 0.68, 0.6, 0.5, 0.4)
SHARES: Final = (0.76, 0.6, 0.5)  # of the evaluations, of ours
SAVINGS: Final = (0.25, 0.4, 0.5)  # of the evaluations, to compare at
SLACK: Final = 0.02  # what counts as getting there
FIRST_SEED: Final = 70_000
BATCH: Final = 16
CALIBRATION: Final = 24  # prompts
SCALE: Final = default_guidance_scale("pocket")
REFERENCE: Final = "reference"
OURS: Final = "ours"
SAME: Final = 99.0  # dB, in the place of the infinity of identical images
RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Method:
    """A way to sample, at one setting: its steps are those of the pipeline's call, None if it says them itself."""

    family: str
    setting: str
    sampler: str
    steps: int | None
    block: Block

    @property
    def name(self) -> str:
        """For files."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.family} {self.setting}".lower()).strip("-")


@contextmanager
def stock(pipe: Any) -> Iterator[Callable[..., Any]]:
    yield pipe


@contextmanager
def guided(pipe: Any, what: Any = None, **how: Any) -> Iterator[Callable[..., Any]]:
    with guide(pipe, what, **how):
        yield pipe


@contextmanager
def fitted(pipe: Any, goal: str, num_steps: int, steps: int, out: Path) -> Iterator[Callable[..., Any]]:
    """The solver that `shapefirst tune` fits to so many steps, on its calibration prompts; kept in ``out``."""
    file = out / f"solver-{steps}.json"
    if not file.is_file():
        tuner = Tuner(pipe, Sampling(SCALE, num_steps), mixed(CALIBRATION, CALIBRATION_SEED), BATCH, goal)
        for batch in range(tuner.batches):
            tuner.record(batch, [], lambda: None)
        for number in fits(num_steps) if goal == "keep" else BEST_STEPS:
            schedule = tuner.fit(number, lambda: None)[0].schedule
            assert schedule.solver is not None
            save_text(schedule.solver.configuration, out / f"solver-{number}.json")
    with guide(pipe, TextSchedule.solved(Solver("FittedScheduler", file.read_text()), steps)):
        yield pipe


def fits(num_steps: int) -> list[int]:
    return [round(share * num_steps) for share in SHARES]


def methods(setting: str, out: Path) -> list[Method]:
    """All of them, the reference first."""
    sampler, n = SETTINGS[setting]
    found = [Method(REFERENCE, "", sampler, n, stock)]
    if setting == "best":
        found.append(Method("another solver", "250 steps", CONFIRMING, n, stock))
        for steps in BEST_STEPS:
            found.append(
                Method(
                    f"{OURS}, fitted",
                    f"{steps} steps",
                    sampler,
                    None,
                    partial(fitted, goal="best", num_steps=25, steps=steps, out=out),
                )
            )
            found += [Method(name, f"{steps} steps", name, steps, stock) for name in STOCK]
            found.append(Method("AYS, DPM++ 2M", f"{steps} steps", "DPM++ 2M, leading", steps, ays(steps)))
        found += [
            Method(f"{OURS}, each image its steps", f"tol {tol:g}", "DPM++ 2M, Karras", 40, partial(guided, tol=tol))
            for tol in (0.02, 0.05, 0.1)
        ]
        return found
    found += [
        Method(f"{OURS}, budget", f"{share:g}", sampler, n, partial(guided, budget=share + 1e-6)) for share in SHARES
    ]
    found += [Method(f"{OURS}, tol", f"{tol:g}", sampler, n, partial(guided, tol=tol)) for tol in (0.003, 0.006, 0.012)]
    found += [
        Method(
            f"{OURS}, fitted",
            f"{steps} steps",
            sampler,
            None,
            partial(fitted, goal="keep", num_steps=n, steps=steps, out=out),
        )
        for steps in fits(n)
    ]
    found += [Method("fewer steps", f"{round(s * n)} steps", sampler, round(s * n), stock) for s in FEWER]
    found += [
        Method(family, words, sampler, n, factory(n)) for family, ladder in RIVALS.items() for words, factory in ladder
    ]
    return found


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


def draw(call: Callable[..., Any], prompts: Sequence[str], first: int, steps: int | None) -> np.ndarray:
    """(B, H, W, 3) uint8; image i has seed ``FIRST_SEED + first + i``."""
    images = call(
        list(prompts),
        **({} if steps is None else {"num_inference_steps": steps}),
        guidance_scale=SCALE,
        generator=generators(range(FIRST_SEED + first, FIRST_SEED + first + len(prompts))),
        output_type="np",
    ).images
    return np.rint(images * 255).astype(np.uint8)


def sample(given: argparse.Namespace) -> None:
    """Images of every method that has none yet."""
    model = load("pocket")
    captions = [scene.caption for scene in scenes(given.prompts)]
    folder = given.out / given.setting
    folder.mkdir(parents=True, exist_ok=True)
    for method in methods(given.setting, folder):
        file = folder / f"{method.name}.npz"
        if not re.search(given.only, method.name) or file.is_file() or file.with_suffix(".error").is_file():
            continue
        images, evaluations = [], 0
        try:
            pipe = pipeline(model, method)
            with method.block(pipe) as call, counting(pipe) as rows:
                for first in track(range(0, len(captions), BATCH), f"{given.setting}: {method.name}"):
                    images.append(draw(call, captions[first : first + BATCH], first, method.steps))
                evaluations = sum(rows)
        except Exception as error:
            save_text(f"{type(error).__name__}: {first_line(error)}\n", file.with_suffix(".error"))
            continue
        with atomic(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, images=np.concatenate(images), evaluations=evaluations / len(captions))


def take_times(given: argparse.Namespace) -> None:
    """Seconds of a call of every method that has images, each beside the reference's; the order differs by round."""
    folder = given.out / given.setting
    file = folder / "seconds.json"
    rounds: list[dict[str, float]] = json.loads(file.read_text()) if file.is_file() else []
    captions = [scene.caption for scene in scenes(given.prompts)][:BATCH]
    first, *others = [m for m in methods(given.setting, folder) if (folder / f"{m.name}.npz").is_file()]
    model = load("pocket")

    def seconds(method: Method) -> float:
        pipe = pipeline(model, method)
        with method.block(pipe) as call:
            start = time.perf_counter()
            draw(call, captions, 0, method.steps)
            return time.perf_counter() - start

    seconds(first)
    for n in range(len(rounds), given.rounds):
        shares: dict[str, float] = {}
        for method in track(random.Random(n).sample(others, len(others)), f"round {n + 1} of {given.rounds}"):
            shares[method.name] = seconds(method) / seconds(first)
        rounds.append(shares)
        save_text(json.dumps(rounds, indent=1), file)


def pipeline(model: Any, method: Method) -> Any:
    """The model's weights with the method's sampler."""
    pipe = copy.copy(model)
    pipe.set_progress_bar_config(disable=True)
    kind, options = STOCK[method.sampler]
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)
    return pipe


@dataclass(frozen=True)
class Row:
    """What was measured of a method; ``l1s`` of each image."""

    method: Method
    evaluations: float
    l1s: list[float]
    psnr: Interval
    clip: Interval
    right: Interval
    changed: Interval
    time_saved: float | None  # median over the rounds

    @property
    def mean(self) -> Interval:
        return bootstrap(self.l1s, within=SHARE)

    @property
    def is_ours(self) -> bool:
        return self.method.family.startswith(OURS)

    def percentile(self, at: float) -> float:
        return float(np.quantile(self.l1s, at))


def rows_of(setting: str, folder: Path, count: int) -> list[Row]:
    """Every method's figures, from its images."""
    import torch
    from PIL import Image

    pocket = locate("pocket")
    assert pocket is not None, "it is part of the package"
    judge = Judge.load(pocket / "judge")
    similarity = ClipSimilarity(load_clip(pocket / "clip", called="pocket's own"))
    meant = [{(o.attribute, o.noun) for o in scene.objects} for scene in scenes(count)]

    def read(method: Method) -> tuple[np.ndarray, float, list[set[tuple[str, str]]]]:
        with np.load(folder / f"{method.name}.npz") as stored:
            images, evaluations = stored["images"][:count], float(stored["evaluations"])
        with torch.no_grad():
            seen = [set(v.objects) for v in judge.look([Image.fromarray(image) for image in images])]
        return images, evaluations, seen

    seconds = folder / "seconds.json"
    rounds = json.loads(seconds.read_text()) if seconds.is_file() else []
    first, *others = methods(setting, folder)
    reference, _, shown = read(first)
    found = []
    for method in track(others, f"comparing {setting}"):
        if not (folder / f"{method.name}.npz").is_file():
            continue
        images, evaluations, seen = read(method)
        pictures, theirs = ([Image.fromarray(image) for image in those] for those in (images, reference))
        found.append(
            Row(
                method,
                evaluations,
                [l1(a, b) for a, b in zip(images, reference, strict=True)],
                bootstrap([min(psnr(a, b), SAME) for a, b in zip(images, reference, strict=True)], within=POSITIVE),
                bootstrap(similarity.score(pictures, theirs), within=SIGNED),
                bootstrap([float(a == b) for a, b in zip(seen, meant, strict=True)], within=SHARE),
                bootstrap([float(a != b) for a, b in zip(seen, shown, strict=True)], within=SHARE),
                1 - statistics.median(one[method.name] for one in rounds) if rounds else None,
            )
        )
    return found


def report(given: argparse.Namespace) -> None:
    """The comparison at equal evaluations, and all rows; see the module for where they are written."""
    folder = given.out / given.setting
    rows = rows_of(given.setting, folder, given.prompts)
    sampler, steps = SETTINGS[given.setting]
    failed = [
        f"{method.family}, {method.setting}: `{file.read_text().strip()}`"
        for method in methods(given.setting, folder)
        if (file := folder / f"{method.name}.error").is_file()
    ]
    lines = [
        f"pocket, w = {SCALE:g}, n = {len(rows[0].l1s)} prompts, image i of seed {FIRST_SEED} + i, float32.",
        f"Distances in [0, 1] are to {steps} steps of {sampler}, with 95% bootstrap intervals over prompts.",
        "Changed: pictures in which the judge sees other objects or attributes than in the reference. No LPIPS, as",
        "its weights are not to be had here.",
        "",
        *(at_equal_steps(rows) if given.setting == "best" else at_equal_evaluations(rows, 2 * steps)),
        "",
        *table(rows, 2 * steps if given.setting != "best" else None),
        "",
        *(f"Failed: {line}." for line in failed),
    ]
    save_text("\n".join(lines).rstrip() + "\n", given.results / f"pareto-{given.setting}.md")
    print("\n".join(lines))


def at_equal_evaluations(rows: Sequence[Row], full: int) -> list[str]:
    """Mean and 95th percentile of L1 at some savings, along each method's line (linear in the log between its rows)."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row.method.family, []).append(row)
    lines = [
        "Mean L1 / its 95th percentile by evaluations saved, along each method's rows (a dash: none saves it):",
        "",
        f"| method | {' | '.join(f'{s:.0%}' for s in SAVINGS)} |",
        f"|{'---|' * (len(SAVINGS) + 1)}",
    ]
    for family, members in families.items():
        cells = []
        for saving in SAVINGS:
            values = [at(members, full, saving, lambda row: row.mean.estimate), at(members, full, saving, high)]
            cells.append("—" if values[0] is None else " / ".join(f"{value:.4f}" for value in values))
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return lines


def high(row: Row) -> float:
    return row.percentile(0.95)


def at(members: Sequence[Row], full: int, saving: float, value: Callable[[Row], float]) -> float | None:
    """A figure of a method where it saves so much: of its best rows, those that no other one beats in both."""
    points = sorted((1 - row.evaluations / full, max(value(row), 1e-6)) for row in members)
    front = [(x, y) for x, y in points if not any(a >= x and b < y for a, b in points)]
    if not front or front[-1][0] < saving - SLACK:
        return None
    return math.exp(np.interp(saving, [x for x, _ in front], [math.log(y) for _, y in front]))


def at_equal_steps(rows: Sequence[Row]) -> list[str]:
    """At each number of evaluations: ours, and the best five of the others."""
    lines = ["| evaluations | method | mean L1 | 95th percentile | changed |", "|---|---|---|---|---|"]
    for steps in BEST_STEPS:
        those = [row for row in rows if row.evaluations <= 2 * steps and row.evaluations > 2 * steps - 5]
        others = sorted((row for row in those if not row.is_ours), key=lambda row: row.mean.estimate)[:5]
        for row in [*(row for row in those if row.is_ours), *others]:
            lines.append(
                f"| {row.evaluations:g} | {row.method.family} | {row.mean:.5f} | {high(row):.4f} | {row.changed:.1%} |"
            )
    return lines


def table(rows: Sequence[Row], full: int | None) -> list[str]:
    names = (
        "method",
        "setting",
        "evaluations",
        "time saved",
        "mean L1",
        "median",
        "95th percentile",
        "PSNR, dB",
        "CLIP similarity",
    )
    lines = [f"| {' | '.join((*names, 'judge: all right', 'changed'))} |", f"|{'---|' * (len(names) + 2)}"]
    for row in rows:
        saved = "" if full is None else f" (-{1 - row.evaluations / full:.0%})"
        cells = [row.method.family, row.method.setting, f"{row.evaluations:.1f}{saved}"]
        cells += ["" if row.time_saved is None else f"{row.time_saved:.0%}", f"{row.mean:.5f}"]
        cells += [f"{row.percentile(0.5):.5f}", f"{high(row):.5f}", f"{row.psnr:.1f}", f"{row.clip:.4f}"]
        cells += [f"{row.right:.1%}", f"{row.changed:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", choices=["sample", "time", "report"])
    arguments.add_argument("setting", choices=list(SETTINGS))
    arguments.add_argument("--prompts", type=int, default=64)
    arguments.add_argument("--only", default="", help="a regular expression: methods whose names match")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    given.results, given.out = given.out or RESULTS, given.out or Path("out/pareto")
    {"sample": sample, "time": take_times, "report": report}[given.stage](given)


if __name__ == "__main__":
    main()
