"""What each way to sample faster saves, and how far it moves the picture: ours, the paper's, and everybody else's.

    python benchmarks/pareto.py sample [--sampler ddim] [--prompts 256] [--out out/pareto]      (hours; resumes)
    python benchmarks/pareto.py time   [--rounds 7]                                             (on an idle machine)
    python benchmarks/pareto.py report                                                          (tables and the plot)

``sample`` draws the same prompts and seeds with every method and keeps the images; ``time`` takes whole calls of 8
images with all methods in turn, the stock pipeline before and after every few of them; ``report`` compares. Prompts
are fresh scenes of pocket's world, none of them among those that policies are tuned on. Peers need
``pip install tgate==1.0.0 deepcache==0.1.1 --no-deps``; one that fails is listed with its error.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
from rich.progress import track

from shapefirst import TextSchedule, guide, load
from shapefirst.denoising import generators
from shapefirst.errors import first_line
from shapefirst.models import default_guidance_scale
from shapefirst.pocket.quality import fresh_scenes
from shapefirst.pocket.world import Scene
from shapefirst.prompts import mixed
from shapefirst.writes import atomic, save_text

STEPS = 50
BATCH = 8
FIRST_SEED = 70_000
CALIBRATION_SEED = 1
REFERENCE = "full guidance"
FINE_STEPS, FINE_PROMPTS = 200, 64  # a reference without the 50 steps' own error

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
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.family} {self.setting}".lower()).strip("-")


@contextmanager
def stock(pipe: Any) -> Iterator[Callable[..., Any]]:
    yield pipe


@contextmanager
def guided(pipe: Any, what: Any = None, **how: Any) -> Iterator[Callable[..., Any]]:
    with guide(pipe, what, **how):
        yield pipe


def methods() -> list[Method]:
    """All of them, the reference first."""

    def at(schedule: TextSchedule, **how: Any) -> Block:
        return partial(guided, what=schedule, **how)

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
    return found


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
    for method in methods():
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


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("stage", choices=["sample", "time", "report"])
    arguments.add_argument("--sampler", default="ddim")
    arguments.add_argument("--prompts", type=int, default=256)
    arguments.add_argument("--only", help="a regular expression: methods whose names match")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--out", type=Path, default=Path("out/pareto"))
    given = arguments.parse_args()
    {"sample": sample}[given.stage](given)


if __name__ == "__main__":
    main()
