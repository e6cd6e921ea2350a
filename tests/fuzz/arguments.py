"""Every public function with one argument that is no such thing: it works, or says so in a sentence of its own.

python -m fuzz.arguments        all of them, and one line of what fell
"""

from __future__ import annotations

import inspect
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fuzz.rooms import rooms
from shapefirst.errors import ShapefirstError

__all__ = ["cases", "fault_of", "targets"]

#: Name -> what makes it: some are used up.
HOSTILE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "-1": lambda: -1,
    "0": lambda: 0,
    "5": lambda: 5,
    "10**9": lambda: 10**9,
    "2**63 - 1": lambda: 2**63 - 1,
    "2**70": lambda: 2**70,
    "10**5000": lambda: 10**5000,
    "0.5": lambda: 0.5,
    "-0.5": lambda: -0.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "text": lambda: "abc",
    "empty text": lambda: "",
    "NUL": lambda: "a\0b",
    "half a character": lambda: "\ud83d",
    "long text": lambda: "a" * 100_000,
    "bytes": lambda: b"abc",
    "[]": lambda: [],
    "[0.5]": lambda: [0.5],
    "[-1]": lambda: [-1],
    "[10**9]": lambda: [10**9],
    "[text]": lambda: ["abc"],
    "[None]": lambda: [None],
    "[[1], 2]": lambda: [[1], 2],
    "()": lambda: (),
    "{}": lambda: {},
    "{text: 1}": lambda: {"a": 1},
    "set": lambda: {1, 2},
    "generator": lambda: (i for i in range(2)),
    "object": object,
    "class": lambda: int,
    "function": lambda: lambda *_, **__: None,
    "path": lambda: Path("nowhere"),
    "module": lambda: torch.nn.Linear(1, 1),
    "number as tensor": lambda: torch.zeros(()),
    "tensor (3,)": lambda: torch.zeros(3),
    "empty tensor": lambda: torch.zeros(0, 4, 8, 8),
    "whole tensor": lambda: torch.zeros(1, 4, 8, 8, dtype=torch.int64),
    "tensor of nan": lambda: torch.full((1, 4, 8, 8), float("nan")),
    "tensor (2, 3, 4)": lambda: torch.zeros(2, 3, 4),
    "meta tensor": lambda: torch.zeros(1, 4, 8, 8, device="meta"),
    "array (3,)": lambda: np.zeros(3),
    "array of texts": lambda: np.array(["a"]),
    "picture": lambda: Image.new("RGB", (4, 4)),
}


#: Arguments that are called.
CALLED = ("on_step", "on_progress", "statistic")


def targets(pipe: Any, folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Name -> a public function and arguments that it works with."""
    import shapefirst
    from shapefirst import attention, measure, prompts, studies
    from shapefirst.policies import auto, placement, schedule, sharing, words
    from shapefirst.policies import file as policy_file
    from shapefirst.prompts import tokens
    from shapefirst.sampling import loop, together

    embeddings = loop.encode(pipe, ["a cat"])
    text = embeddings.text
    maps = torch.rand(1, text.shape[1], 4, 4)
    latents = torch.randn(1, 4, 8, 8)
    half = shapefirst.TextSchedule.until(2)
    grey = Image.new("RGB", (16, 16), "grey")
    at = tokens.positions(pipe.tokenizer, "a cat")

    def entered(make: Callable[..., Any]) -> Callable[..., Any]:
        """A block around a generation, with the signature of what makes it."""

        def call(**given: Any) -> None:
            with make(**given):
                pipe("a cat", num_inference_steps=2, output_type="latent")

        call.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]
        return call

    def applied(make: Callable[..., Any]) -> Callable[..., Any]:
        def call(**given: Any) -> None:
            make(**given).remove()

        call.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]
        return call

    def drained(make: Callable[..., Any]) -> Callable[..., Any]:
        def call(**given: Any) -> None:
            list(make(**given))

        call.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]
        return call

    N = {"num_steps": 4}
    found: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "guide": (entered(shapefirst.guide), {"pipe": pipe, "policy": "paper:1"}),
        "guide by budget": (entered(shapefirst.guide), {"pipe": pipe, "budget": 1.0}),
        "guide by tol": (entered(shapefirst.guide), {"pipe": pipe, "tol": 0.1}),
        "text_until": (entered(shapefirst.text_until), {"pipe": pipe, "step": 1}),
        "text_until by fraction": (entered(shapefirst.text_until), {"pipe": pipe, "fraction": 0.5}),
        "apply": (applied(shapefirst.apply), {"pipe": pipe, "policy": "every:2"}),
        "apply_to_module": (
            applied(shapefirst.apply_to_module),
            {
                "denoiser": pipe.unet,
                "policy": "paper:2",
                "scheduler": pipe.scheduler,
                "branches": ("null", "text"),
                "guidance_scale": 5.0,
            },
        ),
        "text_until_callback": (shapefirst.text_until_callback, {"pipe": pipe, "step": 1}),
        "Guider": (shapefirst.Guider, {"policy": "every:2"}),
        "Guider by budget": (shapefirst.Guider, {"budget": 0.6}),
        "load": (shapefirst.load, {"name_or_path": "nobody-has-such-a-model"}),
        "Auto": (shapefirst.Auto, {"tol": 0.1}),
        "TextSchedule": (shapefirst.TextSchedule, {"windows": ((0, 2),)}),
        "record": (entered(attention.record), {"pipe": pipe}),
        "substitute": (entered(attention.substitute), {"pipe": pipe, "embeddings": text, "positions": [1]}),
        "class_weights": (attention.class_weights, {"maps": maps, "positions": at}),
        "kl_divergence": (attention.kl_divergence, {"p": maps, "q": maps}),
        "generators": (loop.generators, {"seeds": [0]}),
        "encode": (loop.encode, {"pipe": pipe, "prompt": "a cat", "negative_prompt": "a dog"}),
        "preprocessed": (tokens.preprocessed, {"pipe": pipe, "prompt": "a cat"}),
        "denoise": (drained(loop.denoise), {"pipe": pipe, "prompt": "a cat", "num_inference_steps": 2}),
        "denoise embeddings": (
            drained(loop.denoise),
            {"pipe": pipe, "prompt": embeddings, "latents": latents, "num_inference_steps": 2},
        ),
        "decode": (loop.decode, {"pipe": pipe, "latents": latents}),
        "as_images": (loop.as_images, {"pipe": pipe, "pixels": np.zeros((1, 8, 8, 3), np.float32)}),
        "denoise_together": (
            together.denoise_together,
            {
                "pipe": pipe,
                "prompts": embeddings,
                "schedules": [half],
                "num_inference_steps": 2,
                "generator": loop.generators([0]),
            },
        ),
        "difference": (measure.difference, {"image": grey, "reference": grey}),
        "l1": (measure.l1, {"image": grey, "reference": grey}),
        "psnr": (measure.psnr, {"image": grey, "reference": grey}),
        "ssim": (measure.ssim, {"image": grey, "reference": grey}),
        "frechet_distance": (measure.frechet_distance, {"first": np.eye(4), "second": np.eye(4) + 1}),
        "Moments.of": (measure.Moments.of, {"features": np.eye(4)}),
        "Prompt": (prompts.Prompt, {"text": "a red car"}),
        "parse_phrases": (prompts.parse_phrases, {"text": "a red car"}),
        "parse_prompts": (prompts.parse_prompts, {"texts": ["a red car"]}),
        "make_pairs": (prompts.make_pairs, {"prompts": prompts.parse_prompts(["a red car", "a blue bus"])}),
        "mixed": (prompts.mixed, {"count": 2, "seed": 0}),
        "sample": (prompts.sample, {"items": [1, 2, 3], "size": 2, "seed": 0}),
        "read_prompts": (prompts.read_prompts, {"source": folder / "prompts.txt"}),
        "positions": (tokens.positions, {"tokenizer": pipe.tokenizer, "prompt": "a cat"}),
        "Every": (placement.Every, {"gap": 2}),
        "Growing": (placement.Growing, {"first": 2, "ratio": 1.5}),
        "Budget": (placement.Budget, {"share": 0.6}),
        "check_kept": (schedule.check_kept, {"keep": "null", "order": 1}),
        "calls_in": (schedule.calls_in, {"step": 0, "num_steps": 4, "solver_order": 1}),
        "check_policy": (auto.check_policy, {"policy": half, **N}),
        "parse_policy": (words.parse_policy, {"words": "paper:2"}),
        "find_policy": (words.find_policy, {"words": "paper:2"}),
        "describe": (words.describe, {"policy": half, **N}),
        "policy_of": (words.policy_of, {"pipe": pipe, "policy": "paper:2"}),
        "read_policy": (policy_file.read_policy, {"path": folder / "policy.json"}),
        "evaluations_together": (
            sharing.evaluations_together,
            {"policies": [half], "guidance_scale": 7.5, **N},
        ),
        "chosen": (studies.chosen, {"names": ["f1"]}),
        "study_named": (studies.study_named, {"name": "f1"}),
    }
    found |= rooms(pipe, folder)
    made = {
        "until": {"step": 2},
        "starting_at": {"step": 2},
        "window": {"start": 0, "stop": 2},
        "never": {"keep": "text"},
        "every": {"gap": 2},
        "growing": {"first": 2, "ratio": 1.5},
        "at": {"steps": [0, 2]},
        "within": {"budget": 0.6},
    }
    for name, given in made.items():
        found[f"TextSchedule.{name}"] = getattr(shapefirst.TextSchedule, name), given
    for name in ("check", "guided_steps", "text_steps", "calls", "evaluations", "saved", "strip"):
        found[f"schedule.{name}"] = getattr(half, name), N
    found["schedule.uses_text"] = half.uses_text, {"step": 0, **N}
    return found


def cases(found: dict[str, tuple[Callable[..., Any], dict[str, Any]]]) -> Iterator[tuple[str, str, str]]:
    """(function, argument, hostile value): every one."""
    for name, (function, _) in found.items():
        for argument in inspect.signature(function).parameters:
            for hostile in HOSTILE:
                if argument in CALLED and hostile in ("module", "function", "class"):  # which fall by themselves
                    continue
                yield name, argument, hostile


def fault_of(call: Callable[..., Any], given: dict[str, Any], argument: str, hostile: str) -> str | None:
    """What is wrong with how a call falls; None if it works, or is refused in a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(**{**given, argument: HOSTILE[hostile]()})
    except ShapefirstError as error:
        said = str(error)
        if len(said) > 600 or "\n" in said or not said.endswith((".", "?", ")")):
            return f"says {said[:100]!r}"
    except BaseException as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        return f"{type(error).__name__}: {str(error)[:80]!r} at {Path(last.filename).name}:{last.lineno}"
    return None


def main() -> None:
    import signal

    from conftest import _stable_diffusion

    def too_long(*_: Any) -> None:
        raise TimeoutError("10 seconds")

    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prompts.txt").write_text("a cat\n")
        pipe = _stable_diffusion(folder, "epsilon", False)
        pipe.set_progress_bar_config(disable=True)
        found, calls, fell = targets(pipe, folder), 0, []
        for function, argument, hostile in cases(found):
            signal.alarm(10)
            fault = fault_of(*found[function], argument, hostile)
            signal.alarm(0)
            calls += 1
            if fault is not None:
                fell.append(f"{function}({argument}={hostile}): {fault}")
    print(*fell, f"{calls} calls: {len(fell)} fell.", sep="\n")


if __name__ == "__main__":
    main()
