"""Odd command lines, by typer's own tree of commands, so that a new option comes by itself; and files beside them.

    put_files(random)         prompts, grids and pictures, good and hostile, into the current folder
    command_line(random)      ["sweep", "plan", "--steps", "9999...", ...]

Names are relative and stay within the current folder: who runs this as root loses nothing elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import typer.main
from PIL import Image

from shapefirst.cli.app import app
from shapefirst.policies.words import EXAMPLES

__all__ = ["command_line", "commands", "put_files"]

ENDLESS: Final = "9" * 5000
NUMBERS: Final = (
    *("0", "-1", "1", "2", "3", "10", "1000", "1001", "0.5", "-0.0", "1e-310", "1e308", "1e999", "nan", "-inf", "1_0"),
    *(
        "",
        " ",
        "٣",
        "½",
        "0x10",
        "10000000",
        f"{2**31}",
        f"{2**63 - 1}",
        f"{2**63}",
        f"{10**12}",
        ENDLESS,
        f"-{ENDLESS}",
    ),
)
TEXTS: Final = (
    *(
        "",
        " ",
        "x",
        "-",
        "--",
        "-h",
        ".",
        "..",
        "a/b",
        "a:b",
        "x" * 300,
        "x " * 5000,
        "x" * 50_000,
        "None",
        "null",
        "{x}",
    ),
    *(
        "[bold]x[/nope]",
        "\x1b[31mred",
        "a\nb",
        "a\tb",
        "\u202eabc",
        "奶酪",
        "e\u0301",
        "😀",
        "'",
        '"',
        "' " * 300,
        "\\",
        "%s",
    ),
    *(os.fsdecode(b"\xff\xfe"), "~nobody/x", "hf://a/b", "s4://a/b", "file::memory://", "nobody/nothing", "[" * 1000),
)
PLACES: Final = ("new", "new/below", "prompts.txt/x", "pipe", "loop", "folder", "one.png", "damaged.png")
POLICIES: Final = (
    *(*EXAMPLES, "every:0", f"every:{ENDLESS}", "growing:5x1e300", "growing:5xnan", "growing:5", "steps:0-99999999999"),
    *(
        "steps:0-999999999",
        "steps:" + "0+" * 200 + "1",
        "steps:1",
        "steps:3-1",
        "budget:0.60",
        "budget:nan",
        "budget:1e-310",
    ),
    *(
        "tol:1e308",
        "tol:-0.0",
        "paper:101",
        "paper:50%",
        "text:",
        "full:1",
        "every:3,keep=x",
        "every:3,order=2,order=2",
        ",",
    ),
)
#: Option or argument -> values that may be right.
GOOD: Final[dict[str, tuple[str, ...]]] = {
    "--policy": POLICIES,
    "--model": ("pocket", "pocket", "./pocket", "folder", "nobody/nothing", "one.png"),
    "--sampler": ("ddim", "dpm-solver-karras", "heun", "own", "plms"),
    "--keep": ("null", "text", "neither"),
    "--text-steps": ("0", "4", "4.0", "50%", "101%", "0:50:5", "0:999999999:1", "5:0:1", "0:50:0", f"{ENDLESS}%"),
    "--device": ("cpu", "meta", "hpu", "mkldnn", "privateuseone", "cuda:99", "cpu:5", "xla", "tpu"),
    "--dtype": ("float32", "float16", "int8"),
    "--images": ("none", "sample", "all"),
    "--score": ("clip", "=", "clip=nobody/nothing", "x=y"),
    "--preset": ("smoke", "cpu", "tpu"),
    "--stage": ("render", "card", "x"),
    "names": ("f1", "F1", "a6", "all", "f99"),
    "name": ("pocket", "sd15", "nobody"),
    "pipeline": ("StableDiffusionPipeline", "UNet2DConditionModel", "pocket", "os"),
    "prompts": ("a red car", "a red car", "-", "a wombat"),
    "--attributes": ("red", "red,glass", ",", "red,red"),
    "--nouns": ("car", "car,key", ","),
}
PROMPTS: Final[dict[str, bytes]] = {
    "prompts.txt": b"# good\na red car\r\na blue cat\n\na red car\n",
    "pairs.tsv": b"a red car\ta blue cat\na wooden house\ta metallic key\n",
    "table.tsv": b'Prompt\tid\na red car\t1\n"a blue\tcat"\t2\n',
    "rows.jsonl": b'{"prompt": "a red car"}\n{"text": "a blue cat"}\n',
    "captions.csv": b'image_id,caption\n1,a red car\n2,"a blue, cat"\n',
    "coco.json": b'{"annotations": [{"image_id": 1, "caption": "a red car"}, {"image_id": 2, "caption": "a cat"}]}',
    "karpathy.json": b'{"images": [{"sentences": [{"raw": "a red car"}]}, {"sentences": [{"raw": "a blue cat"}]}]}',
    "empty.txt": b"",
    "blanks.txt": b"\xef\xbb\xbf \r\n\t\n#\n",
    "zeros.txt": b"a red\0car\n",
    "utf16.txt": "a red car\n".encode("utf-16"),
    "latin.csv": "caption\nein grüner Hut\n".encode("latin-1"),
    "blob.parquet": b"PAR1" + bytes(range(256)) + b"PAR1",
    "packed.gz": b"\x1f\x8b\x08\x00" + bytes(range(200, 256)),
    "long.txt": b"[" + b" " * 200_000 + b"x\n",
    "deep.json": b"[" * 100_000,
    "deep.jsonl": b'{"prompt": ' * 50_000,
    "many.txt": b"".join(b"a red car %d\n" % n for n in range(20_000)),
}
ENTRIES: Final[tuple[tuple[str, tuple[object, ...]], ...]] = (
    ("models", (["pocket"], ["pocket", "./pocket"], "pocket", [], 3)),
    ("samplers", (["ddim"], ["ddim", "ddim"], ["euler", "plms"], "")),
    ("steps", ([4], [4, 4], [True], [4.0], "four", [10**7], [*range(1, 2000)])),
    ("text_steps", (["50%", 2], [0, "0"], ["0:4:1"], ["0:99999999:1"], [1] * 5000, [[]])),
    ("policies", (list(EXAMPLES[3:5]), ["budget:0.6", "budget:0.60"], ["x"] * 2000, [POLICIES[9]])),
    ("guidance_scale", (3, [4, 4.0], [float("inf")], [float("nan")], [1e308], [1e-310])),
    ("prompts", ("prompts.txt", "captions.csv", "rows.jsonl", "pipe", "folder", "", "pocket")),
    ("count", (2, 1, 0, -1, 10**12, None, "2")),
    ("images_per_prompt", (1, 3, 10**10)),
    ("seed", (0, -1, 2**63)),
    ("shard_size", (1, 32, 0, 10**10)),
    ("unknown", (1,)),
)
BROKEN: Final = (
    "steps = [",
    f"steps = [{ENDLESS}]",
    "steps = " + "[" * 50_000,
    "a" + ".a" * 5000 + " = 1",
    "\0",
    "\ufeff",
)


@cache
def commands() -> dict[tuple[str, ...], Any]:
    """Words -> typer's command."""

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, one in getattr(command, "commands", {}).items():
            yield from below(one, (*words, name))
        if not hasattr(command, "commands"):
            yield words, command

    return dict(below(typer.main.get_command(app), ()))


def put_files(random: Random) -> None:
    """Files of every kind that a command may be given, into the current folder."""
    for name, content in PROMPTS.items():
        Path(name).write_bytes(content)
    for number in range(3):
        Path(f"grid{number}.toml").write_text(_grid(random), encoding="utf-8")
    Path("folder").mkdir()
    Image.new("RGB", (8, 8)).save("one.png")
    Path("damaged.png").write_bytes(Path("one.png").read_bytes()[:40])
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")


def _grid(random: Random) -> str:
    if random.random() < 0.2:
        return random.choice(BROKEN)
    chosen = random.sample(ENTRIES, random.choice((0, 1, 1, 2, 3)))
    lines = [f"{name} = {json.dumps(random.choice(values), ensure_ascii=False)}" for name, values in chosen]
    return "\n".join(lines).replace("Infinity", "inf").replace("NaN", "nan") + "\n"


def command_line(random: Random, without: Collection[str] = ()) -> list[str]:
    """The words of a call: some options of a command, seldom one that there is not.

    Args:
        random: Of the choice.
        without: Options to leave out.
    """
    words = random.choice([*commands()])
    parameters = [one for one in commands()[words].params if not {*one.opts} & {*without}]
    given: list[list[str]] = [] if random.random() < 0.3 else _plain(words)
    for parameter in random.sample(parameters, min(len(parameters), random.choice((0, 1, 1, 2, 2, 3, 5)))):
        for _ in range(random.choice((1, 1, 1, 2))):
            value = _value(parameter, random)
            if parameter.param_type_name == "argument":
                given.append([value])
            else:
                given.append([random.choice(parameter.opts)] if parameter.is_flag else [parameter.opts[0], value])
    if random.random() < 0.05:
        given.append([random.choice(("--stpes", "--out=", "-x", "extra", "--help", "--version", "--" + "x" * 50_000))])
    random.shuffle(given)
    return [*words, *(word for one in given for word in one)]


def _plain(words: tuple[str, ...]) -> list[list[str]]:
    """What a command cannot do without."""
    return {
        ("generate",): [["a red car"]],
        ("check",): [["FluxPipeline"]],
        ("study",): [["f1"], ["--quick"]],
        ("sweep", "plan"): [["--no-probe"], ["--count", "2"]],
        ("sweep", "run"): [["--count", "2"]],
        ("prompts", "coco"): [["captions.csv"]],
        ("prompts", "text"): [["prompts.txt"]],
        ("prompts", "compbench"): [["--complex", "prompts.txt"]],
        ("train-pocket",): [["--out", "new"]],
    }.get(words, [])


def _value(parameter: Any, random: Random) -> str:
    if random.random() < 0.2:
        return random.choice((*NUMBERS, *TEXTS))
    name = next((one for one in parameter.opts if one in GOOD), "")
    if name:
        return random.choice(GOOD[name])
    pools: dict[Any, Callable[[], tuple[str, ...]]] = {int: lambda: NUMBERS, float: lambda: NUMBERS}
    kind = parameter.type_descriptor.annotation
    kind = next(iter(getattr(kind, "__args__", ())), kind)
    return random.choice(pools.get(kind, lambda: (*PLACES, *PROMPTS, "grid0.toml", "grid1.toml", "grid2.toml"))())
