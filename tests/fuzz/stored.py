"""What we have stored, and what becomes of it on the disks of other people: findings, sweeps, policies.

    finding(folder), sweep(folder), policy(file)                    whole ones, made without a model in milliseconds
    of_finding(dice), of_sweep(dice), of_policy(dice)               one thing that may happen to them
        -> (what it is in words, a function that does it to the folder or to the policy's file)

The same dice make the same. A digest is kept or made anew: whoever changes a file by hand may do either.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from shapefirst.findings.finding import Chart, Finding, Picture, Question, Summary, claim
from shapefirst.findings.storage import StudySetting, save
from shapefirst.measure.intervals import Interval, Rule
from shapefirst.policies.file import PolicyFile, write_policy
from shapefirst.sweep.grid import Grid, Shards, prompts_of
from shapefirst.sweep.latency import Latency, Parts, Timing, latencies_text
from shapefirst.sweep.rows import table_of
from shapefirst.sweep.store import Store

__all__ = ["Damage", "finding", "of_finding", "of_json", "of_policy", "of_sweep", "policy", "sweep", "with_digests"]

#: What happens in words, and what does it: to a folder, or to a file.
Damage: TypeAlias = tuple[str, Callable[[Path], None]]

GRID = Grid(steps=(4,), text_steps=("50%",), policies=("steps:0+2",), count=4, shard_size=2)
NASTY = "\x1b]0;owned\x07\x1b[2J|<script>alert(1)</script>\u202e\n`x` [a](javascript:1)"
SCRIPT = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 1.2.3 9e999'><script>alert(1)</script></svg>"

# Values of JSON that an entry may get, as text, because some of them only text can hold.
VALUES = [
    *(
        "null",
        "true",
        "[]",
        "{}",
        "0",
        "-1",
        "1.5",
        "3",
        "4.0",
        "1e9",
        "1000000000",
        "1e999",
        "-0.0",
        "1e-320",
        "1e308",
    ),
    *("NaN", "Infinity", "-Infinity", "9" * 19, "9" * 25, "9" * 5000, '""', '"full"', '"7"', '"NaN"', '"\\ud800"'),
    *('"\\u0000"', '"' + "x" * 100_000 + '"', "[" * 500 + "]" * 500, "[" * 100_000 + "]" * 100_000, '{"a":{"b":[0]}}'),
    *("[0, 0]", "[1, 0]", "[-1]", "[0, 1, 2, 3, 4]", "[[0]]", '["0"]', "[null]", '{"a": 1, "a": 2}', '"../../secret"'),
    *(json.dumps(text) for text in (NASTY, SCRIPT, "\x1b[31mred", "two\nlines", "\u202egpj.exe")),
]


# --- whole ones -------------------------------------------------------------------------------------------------------


def finding(out: Path) -> Path:
    """A finding under ``out``; returns its folder."""
    question = Question("f4", "Which token", "Which?", "The [EOS].", "pairs")
    found = Finding(
        claims=(
            claim("So.", paper="0.9", quantity="share", found=Interval(0.3, 0.2, 0.4, 4), rule=Rule("above", 0.1)),
            claim("No.", paper="", quantity="dB", found=Interval(1, np.nan, 2, 3), rule=Rule("below", 1), if_not="`x`"),
        ),
        table={"prompt": ["a", "b"], "score": [0.5, 0.25]},
        summaries=(Summary(("kind", "n"), (("colour", "3"),), "By kind."),),
        charts=(Chart("curve", "<svg viewBox='0 0 10 20'/>", "caption", "alt"),),
        pictures=(Picture("sheet", Image.new("RGB", (9, 5)), "caption", "alt"),),
        method="So.",
        evaluations=100,
        evaluations_apart=260.5,
    )
    setting = StudySetting(
        "pocket", "abc", "0.1", 7, 50, 7.5, "ddim", False, 4, "def", "shapefirst study", "2 cores", 1.5
    )
    return save(out, question, found, setting)


def policy(
    file: Path, model_digest: str = "0" * 12, sampler: str = "DDIMScheduler", sampler_digest: str = "1" * 12
) -> Path:
    """A policy of 4 steps; with a model's digests it fits it."""
    measured = {"prompts": 4, "L1": {"estimate": 0.1, "low": 0.0, "high": 0.2, "n": 4}}
    tuned = ("pocket", model_digest, sampler, sampler_digest, 7.5, 4, (0, 1, 3), "neither", 1, {"torch": "2"}, measured)
    write_policy(PolicyFile(*tuned), file)
    return file


def sweep(folder: Path) -> Path:
    """A finished sweep of two shards, with a picture and with latencies; of noise, no model."""
    shards, store = Shards(GRID, prompts_of(GRID)), Store(str(folder))
    store.begin(shards, {"weights": {"pocket": "x"}, "scores": {}, "images": "none"}, "shapefirst sweep run")
    for shard in shards:
        store.write(shard.name, table_of(*_rows(shard)), {"0-full.png": _png()} if shard.first == 0 else {})
    timings = tuple(Timing(1, words, 0.1, (1.0, 1.1), (1.2, 1.3)) for words in shards[0].policies)
    store.save("latency.json", latencies_text([Latency(shards[0].setting, "2 cores", timings, (Parts(*[1] * 6),))]))
    return folder


def _rows(shard: Any) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    dice, n = np.random.default_rng(shard.first), len(shard.prompts)
    rows: dict[str, list[Any]] = {}
    for words, one in shard.policies.items():
        mine: dict[str, list[Any]] = {name: [value] * n for name, value in vars(shard.setting).items()}
        mine |= {"policy": [words] * n, "keep": [one.keep] * n, "prompt": [p.text for p in shard.prompts]}
        mine |= {"image": [shard.first + i for i in range(n)], "seed": list(shard.seeds)}
        mine |= {"text_steps": [one.text_steps(4)] * n, "evaluations": [float(one.evaluations(4))] * n}
        scores = {name: dice.uniform(0.1, 1, n).tolist() for name in ("l1", "psnr", "ssim", "similarity", "clipscore")}
        mine |= scores | {"sha256": ["0"] * n, "features": list(dice.standard_normal((n, 3)).astype(np.float32))}
        for name, values in mine.items():
            rows.setdefault(name, []).extend(values)
    about = {"evaluations": 9, "seconds": {"denoising": 1.0}, "features": "noise", "machine": "2 cores"}
    return rows, about


@functools.cache
def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    return stream.getvalue()


# --- what may happen --------------------------------------------------------------------------------------------------


def of_finding(dice: Random) -> Damage:
    """To the folder of `finding`."""
    file = dice.choice(["finding.json"] * 6 + ["table.parquet", "chart-curve.svg", "picture-sheet.png"])
    what, damage = _of_file(dice) if file != "finding.json" or dice.random() < 0.2 else of_json(dice)
    anew = dice.random() < 0.5

    def do(folder: Path) -> None:
        damage(folder / file)
        if anew and (folder / file).is_file() and (folder / file).stat().st_size < 10**6:
            with_digests(folder)

    return f"{file}: {what}{', digests made anew' if anew else ''}", do


def of_policy(dice: Random) -> Damage:
    """To the file of `policy`."""
    if dice.random() < 0.15:
        return _of_file(dice)
    what, damage = of_json(dice)
    anew = dice.random() < 0.7

    def do(file: Path) -> None:
        damage(file)
        if not anew:
            return
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            del content["digest"]
            digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        except (ValueError, LookupError, TypeError, RecursionError):
            return
        file.write_text(json.dumps({**content, "digest": digest}))

    return f"{what}{', digest made anew' if anew else ''}", do


def of_sweep(dice: Random) -> Damage:
    """To the folder of `sweep`."""
    file = dice.choice(["manifest.json"] * 3 + ["latency.json"] * 2 + ["prompts.txt", "images/000000/0-full.png"])
    if dice.random() < 0.5:
        file = f"shards/00000{dice.randrange(2)}.parquet"
    if file.endswith(".parquet") and dice.random() < 0.8:
        what, damage = _of_parquet(dice)
    elif file.endswith(".json") and dice.random() < 0.8:
        what, damage = of_json(dice)
    else:
        what, damage = _of_file(dice)
    return f"{file}: {what}", lambda folder: damage(folder / file)


def of_json(dice: Random) -> Damage:
    """To a file of JSON: one entry of it, at any depth, is another, is gone, is new or is there twice."""
    kind, value, place = dice.choice(["another"] * 5 + ["gone", "new", "twice"]), dice.choice(VALUES), dice.random()

    def do(file: Path) -> None:
        tree = json.loads(file.read_text(encoding="utf-8"))
        holders = list(_entries(tree))
        holder, key = holders[int(place * len(holders))]
        if kind == "gone":
            del holder[key]
        elif kind == "new" and isinstance(holder, dict):
            holder["\x1b[31mnew"] = "@value@"
        elif kind == "twice" and isinstance(holder, dict):
            holder[f"{key}@twice@"] = "@value@"
        else:
            holder[key] = "@value@"
        file.write_text(json.dumps(tree).replace('"@value@"', value).replace("@twice@", ""), encoding="utf-8")

    return f"an entry at {place:.3f} is {kind}: {value[:40]!a}", do


def _entries(tree: Any) -> Any:
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _entries(tree[key])


def _of_file(dice: Random) -> Damage:
    """To a file as such."""
    cut, bit = dice.random(), dice.randrange(8)

    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(cut * len(content))] ^= 1 << bit
        file.write_bytes(content)

    def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
        def do(file: Path) -> None:
            file.unlink()
            make(file)

        return do

    text = functools.partial(Path.read_text, encoding="utf-8", errors="replace")
    return dice.choice(
        [
            (f"cut off at {cut:.3f}", lambda f: f.write_bytes(f.read_bytes()[: int(cut * f.stat().st_size)])),
            (f"a bit is another at {cut:.3f}", flip),
            ("empty", lambda f: f.write_bytes(b"")),
            ("UTF-16", lambda f: f.write_text(text(f), encoding="utf-16")),
            ("a mark of byte order", lambda f: f.write_bytes(b"\xef\xbb\xbf" + f.read_bytes())),
            ("twice", lambda f: f.write_bytes(2 * f.read_bytes())),
            ("zeros", lambda f: f.write_bytes(bytes(1000))),
            ("a list", lambda f: f.write_text("[1, 2]")),
            ("brackets", lambda f: f.write_text("[" * 100_000)),
            ("a script", lambda f: f.write_text(SCRIPT)),
            ("gone", Path.unlink),
            ("a folder", instead(Path.mkdir)),
            ("a pipe", instead(os.mkfifo)),
            ("a device without end", instead(lambda f: f.symlink_to("/dev/zero"))),
            ("a link to itself", instead(lambda f: f.symlink_to(f))),
            ("a terabyte of nothing", lambda f: os.truncate(f, 2**40)),
        ]
    )


def _of_parquet(dice: Random) -> Damage:
    """To a shard's table: its columns, their types, its rows, its metadata, or a second one beside it."""
    place, value = dice.random(), dice.choice(VALUES)

    def changed(change: Callable[[pyarrow.Table, str], pyarrow.Table]) -> Callable[[Path], None]:
        def do(file: Path) -> None:
            table = parquet.read_table(file)
            parquet.write_table(change(table, table.column_names[int(place * table.num_columns)]), file)

        return do

    def other(table: pyarrow.Table, name: str, column: Any) -> pyarrow.Table:
        return table.set_column(table.column_names.index(name), name, column)

    def about(table: pyarrow.Table, _: str) -> pyarrow.Table:
        made = json.loads(table.schema.metadata[b"shapefirst"])
        names = list(made)
        made[names[int(place * len(names))]] = "@value@"
        return table.replace_schema_metadata({"shapefirst": json.dumps(made).replace('"@value@"', value)})

    def copied(name: str) -> Callable[[Path], None]:
        return lambda file: shutil.copy(file, file.with_name(name)) and None

    def first(table: pyarrow.Table, name: str) -> Any:
        return [table[name][0].as_py()] * len(table)

    tables: list[tuple[str, Callable[[pyarrow.Table, str], pyarrow.Table]]] = [
        ("no rows", lambda t, _: t.slice(0, 0)),
        ("a row less", lambda t, _: t.slice(1)),
        ("rows twice", lambda t, _: pyarrow.concat_tables([t, t])),
        ("no metadata", lambda t, _: t.replace_schema_metadata(None)),
        ("metadata that are none", lambda t, _: t.replace_schema_metadata({"shapefirst": value.encode()})),
        ("an entry of the metadata", about),
        ("a column is gone", lambda t, name: t.drop_columns([name])),
        ("a column is text", lambda t, name: other(t, name, pyarrow.array(["x"] * len(t)))),
        ("a column is numbers", lambda t, name: other(t, name, pyarrow.array([1.5] * len(t)))),
        ("a column is huge numbers", lambda t, name: other(t, name, pyarrow.array([2**62] * len(t)))),
        ("a column is nothing", lambda t, name: other(t, name, pyarrow.nulls(len(t)))),
        ("a column is nan", lambda t, name: other(t, name, pyarrow.array([float("nan")] * len(t)))),
        ("a column is lists", lambda t, name: other(t, name, pyarrow.array([[1.0]] * len(t)))),
        ("a column is its first", lambda t, name: other(t, name, pyarrow.array(first(t, name), t[name].type))),
        ("a column is new", lambda t, _: t.append_column("new", pyarrow.array([0.5] * len(t)))),
        ("a column is there twice", lambda t, name: t.append_column(name, t[name])),
        ("another program's", lambda *_: pyarrow.table({"a": [1, 2]})),
        ("no columns", lambda *_: pyarrow.table({})),
    ]
    damages: list[Damage] = [(what, changed(change)) for what, change in tables]
    names = ("000000 (1)", "000000.sync-conflict-20260101-120000-ABCDEFG", "000009", "notes", "0", "\x1b[31m")
    damages += [(f"a copy is {name!a}", copied(f"{name}.parquet")) for name in names]
    damages.append(("is that of the other", lambda f: f.write_bytes(_other(f).read_bytes()) and None))
    return dice.choice(damages)


def _other(shard: Path) -> Path:
    return next(file for file in sorted(shard.parent.iterdir()) if file != shard)


def with_digests(folder: Path) -> None:
    """The digests in finding.json are those of the files as they are now."""
    try:
        facts = json.loads((folder / "finding.json").read_text(encoding="utf-8"))
        for name in facts["files"]:
            facts["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / "finding.json").write_text(json.dumps(facts))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return
