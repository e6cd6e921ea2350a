"""Odd command lines: of every command some options, each with a value that may be good or may be anything. A command or
an option that is new is found by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fuzz.cases import Case
from fuzz.stock import put_stock

__all__ = ["option_case"]

#: What keeps a command small where its options are good.
SMALL: dict[tuple[str, ...], tuple[str, ...]] = {
    ("generate",): ("--steps", "2"),
    ("sweep", "plan"): ("--steps", "2", "--count", "2", "--no-probe"),
    ("sweep", "run"): ("--steps", "2", "--count", "2"),
    ("sweep", "latency"): ("--batch", "1", "--rounds", "2"),
    ("study",): ("--quick",),
    ("train-pocket",): ("--preset", "smoke"),
}
#: Commands that take more than seconds: their user is impatient.
LONG = ("demo", "models", "study", "tune", "train-pocket", "sweep")
NUMBERS = (
    *("0", "1", "2", "3", "4", "-1", "10", "0.5", "1.5", "1e3", "1e999", "nan", "inf", "-inf", "0x10", "1_000", "½"),
    *("１２", "", " ", "1000000", "10000000", str(2**31), str(2**63), str(2**64), "1" + "0" * 30, "9" * 5000, "-" * 50),
)
TEXTS = (
    *("", " ", "x", "x" * 300, "x" * 100_000, "\x1b[31mred", "a\nb", "a\tb", "\u202eabc", "[bold]x[/bold]", "[/nope]"),
    *(
        "{x}",
        "%s",
        "~nobody/x",
        "../x",
        "/",
        "/dev/null",
        "/proc/self/mem",
        "nowhere/x",
        "hf://a/b",
        "s3://b/x",
        "x://",
    ),
    *("file::memory://", "a/b", "-", "--", "--steps", "-h", ".", "..", "./", "new", "NUL", "a:b", os.fsdecode(b"\xff")),
    *(
        "奶酪",
        "e\u0301",
        "\U0001f600",
        "'",
        '"',
        "\\",
        "$(touch canary)",
        "`touch canary`",
        "; touch canary",
        "a red car",
    ),
)
FILES = ("prompts.txt", "prompts.csv", "pairs.tsv", "prompts.jsonl", "captions.json", "grid.toml", "policy.json")
PLACES = (
    *FILES,
    "pictures",
    "statistics.npz",
    "array.npy",
    "sweep",
    "studies",
    "pictures/0.png",
    "new",
    "prompts.txt/x",
)
SAMPLERS = ("ddim", "dpm-solver", "dpm-solver-singlestep", "euler", "unipc", "heun", "DDIM")
HEADS = ("budget", "tol", "every", "growing", "steps", "paper", "text", "full", "")
TAILS = (
    "",
    "0.5",
    "2",
    "0",
    "1",
    "5x1.3",
    "0-1",
    "0+1",
    "1-0",
    "50%",
    "-1",
    "1e9",
    "nan",
    "0+" * 200 + "1",
    "0-99999999",
)
MODIFIERS = ("", ",keep=text", ",order=2", ",order=9", ",keep=", ",,", ",x=y", ",order=1,order=2")
MODELS = (*("pocket",) * 3, "sd15", "nobody/nothing", "pictures", "sweep", "prompts.txt", "sdxl", "Pocket")
GOOD: dict[str, Sequence[str]] = {
    "--model": MODELS,
    "--sampler": SAMPLERS,
    "--device": (*("cpu",) * 5, "cuda", "mps", "meta", "hpu", "mkldnn", "privateuseone", "cuda:99", "cpu:1", "xla"),
    "--dtype": ("float32", "float16", "bfloat16", "float64", "int8", "bool"),
    "--keep": ("null", "text"),
    "--images": ("none", "sample", "all"),
    "--preset": ("smoke", "cpu", "gpu"),
    "--stage": ("render", "teacher", "card", "export"),
    "--ray": ("127.0.0.1:1", "nowhere:6379", "nowhere", "ray://127.0.0.1:1", "127.0.0.1:99999"),
    "--score": ("clip=nobody/nothing", "x=y", "clip", "=", "clip="),
    "--text-steps": ("0", "1", "2", "50%", "0:2:1", "0:2:0", "2:0:1", "0:999999999:1", "101%"),
    "names": ("f1", "f2", "f3", "a1", "a6", "x2", "all", "f99"),
    "name": ("pocket", "sd15", "nobody"),
    "pipeline": (
        "StableDiffusionPipeline",
        "FluxPipeline",
        "DiffusionPipeline",
        "UNet2DConditionModel",
        "pocket",
        "os",
    ),
    "prompts": ("a red car", "a wooden house", "-", "a zebra"),
    "--attributes": ("red", "red,glass", ",", "red,red"),
    "--nouns": ("car", "car,cat,key", ","),
}


@cache
def commands() -> dict[tuple[str, ...], Any]:
    """Words -> typer's command."""
    import typer.main

    from shapefirst.cli.app import app

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, one in getattr(command, "commands", {}).items():
            yield from below(one, (*words, name))
        if not hasattr(command, "commands"):
            yield words, command

    return dict(below(typer.main.get_command(app), ()))


def _policy(random: Random) -> str:
    head, tail = random.choice(HEADS), random.choice(TAILS)
    return f"{head}{':' if tail or random.random() < 0.1 else ''}{tail}{random.choice(MODIFIERS)}"


def _value(parameter: Any, random: Random) -> str:
    name = next((option for option in parameter.opts if option in GOOD), parameter.opts[0])
    if random.random() < 0.25:
        return random.choice((*NUMBERS, *TEXTS))
    if name == "--policy":
        return _policy(random)
    if name in GOOD:
        return random.choice(GOOD[name])
    kind = parameter.type_descriptor.annotation
    if kind in (int, float, list[int], list[float]):
        return random.choice((*NUMBERS, "2", "3", "4", "10"))
    return random.choice(PLACES)


def option_case(random: Random) -> Case:
    """A command with some of its options."""
    words = random.choice(list(commands()))
    parameters = commands()[words].params
    given: list[list[str]] = [[]]
    for parameter in random.sample(parameters, min(len(parameters), random.choice((0, 1, 1, 2, 2, 3, 5)))):
        for _ in range(random.choice((1, 1, 1, 2))):
            value = _value(parameter, random)
            if parameter.param_type_name == "argument":
                given.append([value])
            elif parameter.is_flag:
                given.append([random.choice(parameter.opts)])
            else:
                given.append([parameter.opts[0], value])
    if words[0] == "generate" and random.random() < 0.8:
        given.append(["a red car"])
    if words == ("train-pocket",) and random.random() < 0.8:
        given.append(["--out", "new"])
    random.shuffle(given)
    small = SMALL.get(words, ())
    if random.random() < 0.05:  # a slip of the finger
        given.append([random.choice(("--stpes", "--out=", "-x", "extra", "--help", "--version", "--no-probe"))])
    arguments = (*words, *small, *(word for one in given for word in one))
    stdin: Callable[[], bytes] = lambda: random.choice((b"", b"a red car\n", b"\xff\n", b"\0", b"y\n", b"a\x1b[31m\n"))  # noqa: E731
    return Case("odd options", arguments, _stocked, stdin(), interrupted=3.0 if words[0] in LONG else None)


def _stocked(folder: Path) -> None:
    put_stock(folder)
