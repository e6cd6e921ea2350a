"""What each way to sample faster costs in the picture: ours, and everybody else's, in the settings that people use.

    python benchmarks/pareto.py sample dpm-karras-25 [--prompts 128] [--screen 16]     (an hour or more; resumes)
    python benchmarks/pareto.py time   dpm-karras-25 [--rounds 5]                      (on an idle machine)
    python benchmarks/pareto.py report dpm-karras-25

**keep** (settings with a number of steps): distances are to the fully guided run of that setting. Rivals are fewer
steps of the same sampler, which begin at the same timestep, and every method of `peers.RIVALS` with its authors' and
with other settings. **best** (the setting of that name): distances are to the converged picture, DPM-Solver++ in the
1000 steps of the model's times, which UniPC in as many has to confirm. Fewer stop above the least noise, and what is
painted below it they leave out. Rivals are all of `peers.settings.STOCK` and AYS. In **flow-28** and **best-flow**
pocket is read as a model of flow matching (`peers.flow`), and rivals of best are all of `peers.settings.FLOWS`.

The same prompts and seeds throughout: fresh scenes of pocket's world, none of them among those that policies and
solvers are tuned on. Every method draws the first ``--screen``; the rest only ours, fewer steps and the finalists: the
rivals that no other one beats by far on those, which flatters rivals if anybody, and the same method's settings in
between. Images are kept in ``--out``, where ``report`` writes to, too; without it they are in ``out/pareto``, and the
report goes to ``benchmarks/results``. With ``--model pocket-dit`` it is the second model, where peers that need a U-Net
fail. Peers need ``pip install '.[bench]'``; one that fails is listed with its error.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from pareto_methods import BATCH, BEST_STEPS, CONFIRMING, FEWER_STEPS, SCALE, SETTINGS, Method, methods
from pareto_tables import (
    LEAST_L1,
    SLACK,
    Row,
    about,
    at_equal_savings,
    at_equal_steps,
    beside_the_best_rival,
    table,
)
from peers.settings import PARTS, sampled_by
from rich.progress import track

from shapefirst import load
from shapefirst.cli.tune import CALIBRATION_SEED
from shapefirst.errors import first_line
from shapefirst.families.layout import own_size
from shapefirst.files import atomic, save_text
from shapefirst.measure import l1, psnr
from shapefirst.measure.clip import ClipSimilarity, load_clip
from shapefirst.measure.distances import frechet_of_few
from shapefirst.measure.intervals import POSITIVE, SHARE, SIGNED, bootstrap
from shapefirst.measure.judge import Judge
from shapefirst.models import locate
from shapefirst.models.machine import hardware
from shapefirst.prompts import mixed
from shapefirst.sampling.loop import generators
from shapefirst.training.quality import fresh_scenes
from shapefirst.world.scenes import Scene, render

FIRST_SEED: Final = 70_000
FAR: Final = 1.5  # times closer, for a rival to be beaten by far
SAVES: Final = 0.9  # of the evaluations: with more a method is no finalist
SAME: Final = 99.0  # dB, in the place of the infinity of identical images
RESULTS: Final = Path(__file__).parent / "results"


def scenes(count: int) -> list[Scene]:
    """Fresh scenes with distinct captions, none of them a prompt that policies are tuned on."""
    tuned = set(mixed(64, CALIBRATION_SEED))
    fresh = {s.caption: s for s in fresh_scenes(2 * count + 64, FIRST_SEED) if s.caption not in tuned}
    return list(fresh.values())[:count]


@contextmanager
def counting(pipe: Any) -> Iterator[list[int]]:
    """Rows that the denoiser really computes, call by call: those of its first layer, which no method spares."""
    rows: list[int] = []
    first = pipe.transformer.pos_embed if getattr(pipe, "unet", None) is None else pipe.unet.conv_in
    handle = first.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


def draw(pipe: Any, call: Callable[..., Any], prompts: Sequence[str], first: int, steps: int | None) -> np.ndarray:
    """(B, H, W, 3) uint8 by a method's call on the pipeline; image i has seed ``FIRST_SEED + first + i``."""
    images = call(
        list(prompts),
        **({} if steps is None else {"num_inference_steps": steps}),
        **own_size(pipe),
        guidance_scale=SCALE,
        generator=generators(range(FIRST_SEED + first, FIRST_SEED + first + len(prompts))),
        output_type="np",
    ).images
    return np.rint(images * 255).astype(np.uint8)


def sample(given: argparse.Namespace) -> None:
    """Images of every method for the first prompts, and of the finalists for all of them."""
    model, folder = load(given.model, dtype="float32"), folder_of(given)
    captions = [scene.caption for scene in scenes(given.prompts)]
    folder.mkdir(parents=True, exist_ok=True)
    every = methods(given.setting, folder)
    for method in every:
        if re.search(given.only, method.name):
            draw_up_to(captions[: given.screen], model, method, given, folder)
    for method in finalists(every, given.setting, folder, given.screen):
        if re.search(given.only, method.name):
            draw_up_to(captions, model, method, given, folder)


def folder_of(given: argparse.Namespace) -> Path:
    """Where images of the setting and the model lie."""
    folder: Path = given.out / label_of(given)
    return folder


def label_of(given: argparse.Namespace) -> str:
    """The setting's name, and the model's if it is another one."""
    return str(given.setting) if given.model == "pocket" else f"{given.setting}-{given.model}"


def draw_up_to(captions: Sequence[str], model: Any, method: Method, given: argparse.Namespace, folder: Path) -> None:
    """Draws those that are not stored yet, and stores them with the others."""
    file = folder / f"{method.name}.npz"
    images, evaluations = stored_of(file) if file.is_file() else (np.zeros((0, 64, 64, 3), np.uint8), 0.0)
    done = len(images)
    if done >= len(captions) or file.with_suffix(".error").is_file():
        return
    drawn = [images]
    try:
        pipe = sampled_by(model, method.sampler)
        with method.block(pipe) as call, counting(pipe) as rows:
            for first in track(range(done, len(captions), given.batch), f"{given.setting}: {method.name}"):
                drawn.append(draw(pipe, call, captions[first : first + given.batch], first, method.steps))
            evaluations = (evaluations * done + sum(rows)) / len(captions)
    except Exception as error:
        save_text(f"{type(error).__name__}: {first_line(error)}\n", file.with_suffix(".error"))
        return
    with atomic(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, images=np.concatenate(drawn), evaluations=evaluations)


def stored_of(file: Path) -> tuple[np.ndarray, float]:
    """(n, H, W, 3) uint8, and the evaluations of one image."""
    with np.load(file) as stored:
        return stored["images"], float(stored["evaluations"])


def drawn_of(every: Sequence[Method], folder: Path) -> list[Method]:
    """Those that have images."""
    return [method for method in every if (folder / f"{method.name}.npz").is_file()]


def finalists(every: Sequence[Method], setting: str, folder: Path, screen: int) -> list[Method]:
    """The reference, ours and fewer steps, and of the others those that none of them beats by far: that is `FAR` times
    closer both in the mean and in the geometric mean, for no more evaluations, and those between two of the same
    method that are left, as tables draw a line there. What saves too little is none."""
    first, *others = drawn_of(every, folder)
    images, full = stored_of(folder / f"{first.name}.npz")
    rivals: dict[Method, tuple[float, float, float]] = {}
    for method in others:
        theirs, evaluations = stored_of(folder / f"{method.name}.npz")
        if not method.is_ours and compares(evaluations, setting, full):
            far = [max(l1(a, b), LEAST_L1) for a, b in zip(theirs[:screen], images, strict=False)]
            rivals[method] = evaluations, statistics.fmean(far), statistics.geometric_mean(far)

    def is_beaten(evaluations: float, mean: float, typical: float) -> bool:
        return any(e <= evaluations and FAR * m <= mean and FAR * t <= typical for e, m, t in rivals.values())

    close: dict[str, list[float]] = defaultdict(list)  # of each family, the evaluations of those that are not beaten
    for method, (taken, *distances) in rivals.items():
        if not is_beaten(taken, *distances):
            close[method.family].append(taken)

    def goes_on(method: Method) -> bool:
        if method.is_ours or method.family == FEWER_STEPS:
            return True
        those = close[method.family]
        return bool(those) and method in rivals and min(those) <= rivals[method][0] <= max(those)

    return [first, *filter(goes_on, others)]


def compares(evaluations: float, setting: str, full: float) -> bool:
    """Whether a method takes a number of evaluations that is compared at."""
    if setting in CONFIRMING:
        return any(about(evaluations, steps) for steps in BEST_STEPS)
    return evaluations <= SAVES * full


def take_times(given: argparse.Namespace) -> None:
    """Seconds of a call of every finalist and of what skips parts of an evaluation, each beside the reference's; the
    order differs by round."""
    folder = folder_of(given)
    how, taken = f"{hardware()}, batch {given.batch}", times_of(folder)
    rounds: list[dict[str, float]] = taken["rounds"] if taken["how"] == how else []
    captions = [scene.caption for scene in scenes(given.batch)]
    every = methods(given.setting, folder)
    first, *others = finalists(every, given.setting, folder, given.screen)
    others += [m for m in drawn_of(every, folder) if m.family in PARTS and m not in others]
    others = [method for method in others if re.search(given.only, method.name)]
    model = load(given.model, dtype="float32")

    def seconds(method: Method) -> float:
        pipe = sampled_by(model, method.sampler)
        with method.block(pipe) as call:
            start = time.perf_counter()
            draw(pipe, call, captions, 0, method.steps)
            return time.perf_counter() - start

    seconds(first)
    for n in range(len(rounds), given.rounds):
        shares: dict[str, float] = {}
        for method in track(random.Random(n).sample(others, len(others)), f"round {n + 1} of {given.rounds}"):
            shares[method.name] = seconds(method) / seconds(first)
        rounds.append(shares)
        save_text(json.dumps({"how": how, "rounds": rounds}, indent=1), folder / "seconds.json")


def times_of(folder: Path) -> dict[str, Any]:
    """What `take_times` has measured: how, and in each round the methods' shares of the reference's seconds."""
    file = folder / "seconds.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {"how": "", "rounds": []}


def rows_of(setting: str, folder: Path, count: int) -> list[Row]:
    """Every method's figures, from its images."""
    import torch
    from PIL import Image

    pocket = locate("pocket")
    assert pocket is not None, "it is part of the package"
    judge = Judge.load(pocket / "judge")
    similarity = ClipSimilarity(load_clip(pocket / "clip", called="pocket's own"))
    drawn = scenes(count)
    meant = [{(o.attribute, o.noun) for o in scene.objects} for scene in drawn]

    def look(images: Sequence[np.ndarray] | np.ndarray) -> tuple[list[set[tuple[str, str]]], np.ndarray]:
        """What the judge sees in each image, and (n, d) its features."""
        with torch.no_grad():
            sightings = judge.look([Image.fromarray(image) for image in images])
        return [set(v.objects) for v in sightings], np.stack([v.features.numpy() for v in sightings]).astype(float)

    def read(method: Method) -> tuple[np.ndarray, float, list[set[tuple[str, str]]], np.ndarray]:
        images, evaluations = stored_of(folder / f"{method.name}.npz")
        return images[:count], evaluations, *look(images[:count])

    _, true = look([render(scene)[0] for scene in drawn])

    rounds = times_of(folder)["rounds"]
    first, *others = methods(setting, folder)
    reference, _, shown, full = read(first)
    found = []
    for method in track(drawn_of(others, folder), f"comparing {setting}"):
        images, evaluations, seen, features = read(method)
        n = len(images)  # fewer than the reference has where it is no finalist
        pictures, theirs = ([Image.fromarray(image) for image in those] for those in (images, reference[:n]))
        found.append(
            Row(
                method,
                evaluations,
                [l1(a, b) for a, b in zip(images, reference[:n], strict=True)],
                bootstrap([min(psnr(a, b), SAME) for a, b in zip(images, reference[:n], strict=True)], within=POSITIVE),
                bootstrap(similarity.score(pictures, theirs), within=SIGNED),
                bootstrap([float(a == b) for a, b in zip(seen, meant[:n], strict=True)], within=SHARE),
                bootstrap([float(a != b) for a, b in zip(seen, shown[:n], strict=True)], within=SHARE),
                frechet_of_few(features, true[:n]) / frechet_of_few(full[:n], true[:n]),
                [1 - shares[method.name] for shares in rounds if method.name in shares],
            )
        )
    return found


def at_equal_time(rows: Sequence[Row], folder: Path) -> list[str]:
    """The table by the time saved, of methods whose seconds were measured."""
    counts = [len(row.times_saved) for row in rows if row.times_saved]
    if not counts:
        return []
    rounds = f"the median of {min(counts)} rounds or more, in other orders (all rows have their spread)"
    return [
        "",
        *at_equal_savings(rows, "time", lambda row: row.time_saved),
        "",
        f"Time is that of whole calls, each beside one of the reference's: {rounds}, {times_of(folder)['how']}.",
    ]


def report(given: argparse.Namespace) -> None:
    """The comparison at equal evaluations, and all rows; see the module for where they are written."""
    folder = folder_of(given)
    rows = rows_of(given.setting, folder, given.prompts)
    sampler, steps = SETTINGS[given.setting]
    full = None if given.setting in CONFIRMING else 2 * steps
    failed = [
        f"{method.family}, {method.setting}: `{file.read_text().strip()}`"
        for method in methods(given.setting, folder)
        if (file := folder / f"{method.name}.error").is_file()
    ]
    most = max(len(row.l1s) for row in rows)
    finals, screened = ([row for row in rows if (len(row.l1s) == most) is whole] for whole in (True, False))
    if full is None:
        compared = at_equal_steps(finals)
    else:
        saved = at_equal_savings(rows, "evaluations", lambda row: 1 - row.evaluations / full)
        compared = [*saved, *at_equal_time(rows, folder)]
    lines = [
        f"{given.model}, w = {SCALE:g}, n = {most} prompts, image i of seed {FIRST_SEED} + i, float32.",
        f"Distances in [0, 1] are to {steps} steps of {sampler}, with 95% bootstrap intervals over prompts.",
        "Changed: pictures in which the judge sees other objects or attributes than in the reference. Frechet: the",
        "distance of the judge's features to those of renders of the same scenes, over the reference's own. No LPIPS,",
        "as its weights are not to be had here.",
        "",
        *compared,
        "",
        *beside_the_best_rival(finals, 0.0 if full is None else full * SLACK),
        "",
        *table(finals, full),
        "",
    ]
    if screened:
        few = len(screened[0].l1s)
        lines += [
            f"Screened with the first {few} prompts, and no finalists, as they are not compared at, or as",
            f"for no more evaluations another is {FAR:g} times closer, both in the mean and in the geometric mean.",
            "",
            *table(screened, full),
            "",
        ]
    lines += [f"Failed: {line}." for line in failed]
    save_text("\n".join(lines).rstrip() + "\n", given.results / f"pareto-{label_of(given)}.md")
    print("\n".join(lines))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", choices=["sample", "time", "report"])
    arguments.add_argument("setting", choices=list(SETTINGS))
    arguments.add_argument("--model", choices=["pocket", "pocket-dit"], default="pocket")
    arguments.add_argument("--prompts", type=int, default=128)
    arguments.add_argument("--screen", type=int, default=16, help="of the prompts, those that every method draws")
    arguments.add_argument(
        "--batch", type=int, default=BATCH, help="images in a call; some rivals decide for all of it"
    )
    arguments.add_argument("--only", default="", help="a regular expression: methods whose names match")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    given.results, given.out = given.out or RESULTS, given.out or Path("out/pareto")
    {"sample": sample, "time": take_times, "report": report}[given.stage](given)


if __name__ == "__main__":
    main()
