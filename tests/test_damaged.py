"""What others have done to stored files: one sentence says what is wrong, or it does no harm."""

import hashlib
import json
import os
import re
import shutil
from itertools import count
from random import Random

import pyarrow
import pytest
from cuts import killed
from fuzz import stored as hostile
from pyarrow import parquet

from shapefirst.checks import json_of
from shapefirst.errors import ShapefirstError
from shapefirst.findings.finding import Finding, Summary
from shapefirst.findings.storage import load_stored, recover_all
from shapefirst.policies.file import read_policy
from shapefirst.report import write_report
from shapefirst.sweep import rows
from shapefirst.sweep.latency import read_latencies
from shapefirst.sweep.pictures import pictures_of
from shapefirst.sweep.report import markdown
from shapefirst.sweep.store import Store
from shapefirst.sweep.summary import summarise

SAMPLE = 40  # damages of each kind here; `make fuzz` tries thousands


def refusal(call):
    """The sentence that refuses, in one line that shows what it is; "" where nothing does."""
    said = ""
    try:
        call()
    except ShapefirstError as error:
        said = str(error)
    assert said.isprintable()
    return said


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cut off"),
        (b'{"a": 1', "cut off"),
        (b"\xff\xfe{\x00}\x00", "cut off"),
        (b'{"a": 1, "b": 2, "a": 3}', "the entry 'a' twice"),
        (b"[NaN]", "NaN is not finite"),
        (b"[-Infinity]", "-Infinity is not finite"),
        (b"[1e999]", "1e999 is not finite"),
        (b"9" * 5000, "does not go into 64 bits"),
        (b"-18446744073709551616", "does not go into 64 bits"),
        (b'"\\ud800"', "half a character"),
        (b"[" * 100_000, "nested without end"),
        (b"[" * 5_000 + b"]" * 5_000, "nested without end"),
        (b"[" + b"0," * 2**19 + b"0]", "hold more than it should"),
        (b'"' + b"x" * 2**25 + b'"', "hold more than it should"),
    ],
)
def test_json_that_we_never_write_is_refused(content, why):
    with pytest.raises(ValueError, match=why) as error:
        json_of(content)
    assert len(str(error.value)) < 200


def test_json_that_an_editor_has_saved_is_read():
    assert json_of('\ufeff{"a": [18446744073709551615, -1.5, "\\ud83e\\uddc0", null]}\r\n'.encode()) == {
        "a": [2**64 - 1, -1.5, "🧀", None]
    }


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "value", "why"),
    [
        ("guided", None, "'guided' should be a valid tuple"),
        ("guided", "missing", "'guided' is missing"),
        ("guided", [0, "1"], "'guided' should be a valid integer, not '1'"),
        ("guided", [0, True], "'guided' should be a valid integer, not True"),
        ("guided", [0, 3, 1], "in order, each of them once"),
        ("guided", [0, 1, 1], "in order, each of them once"),
        ("guided", [-1, 0], "0 or more, not -1"),
        ("guided", [0, 4], "guides step 4, counted from 0"),
        ("guided", [1, 2], "needs a guided step to begin with"),
        ("guided", [], "needs a guided step to begin with"),
        ("steps", "4", "'steps' should be a valid integer, not '4'"),
        ("steps", 4.0, "'steps' should be a valid integer, not 4.0"),
        ("steps", [4], "'steps' should be a valid integer"),
        ("steps", True, "'steps' should be a valid integer, not True"),
        ("steps", 0, "at least 1, not 0"),
        ("steps", 10**9, "at most 4,000, not 1000000000"),
        ("steps", 3, "guides step 3"),
        ("order", 1.5, "'order' should be a valid integer"),
        ("order", 9, "order must be 0"),
        ("order", 10**30, "does not go into 64 bits"),
        ("order", None, 'give an order from 0 to 3 with "neither"'),
        ("keep", "both", "'keep' should be 'null', 'text' or 'neither'"),
        ("guidance_scale", None, "'guidance_scale' should be a valid number"),
        ("guidance_scale", "7.5", "'guidance_scale' should be a valid number"),
        ("guidance_scale", float("nan"), "NaN is not finite"),
        ("guidance_scale", 1, "above 1, not 1"),
        ("sampler", "DDIM\n\x1b[2J", "The sampler of a policy is a word"),
        ("model_digest", "\x1b]0;owned\x07", "The model_digest of a policy is a word"),
        ("model", ["pocket"], "'model' should be a valid string"),
        ("versions", {"torch": 2}, "'versions.torch' should be a valid string"),
        ("measured", [], "'measured' should be a valid dictionary"),
        ("x" * 500, 1, r"'xxx.*\.\.\.' is none: there are model, "),
    ],
)
def test_a_policy_that_was_changed_by_hand_is_refused_whatever_its_digest(tmp_path, entry, value, why):
    file = hostile.policy(tmp_path / "policy.json")
    content = json.loads(file.read_text()) | {entry: value}
    if value == "missing":
        del content[entry]
    del content["digest"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    file.write_text(json.dumps({**content, "digest": digest}))
    said = refusal(lambda: read_policy(file))
    with pytest.raises(ShapefirstError, match=why):
        read_policy(file)
    assert len(said) < len(str(file)) + 250
    file.write_text(json.dumps({**content, "digest": "0" * 16}))
    assert refusal(lambda: read_policy(file))


def test_what_a_policy_says_of_its_model_is_shown_as_text(make_pipe, tmp_path):
    file = hostile.policy(tmp_path / "policy.json")
    content = json.loads(file.read_text()) | {"model": hostile.NASTY + "x" * 1000}
    del content["digest"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    file.write_text(json.dumps({**content, "digest": digest}))
    said = refusal(lambda: read_policy(file).policy_for(make_pipe()))
    assert "another model, '\\x1b]0;owned" in said
    assert len(said) < 250


def test_damaged_policies_are_refused_or_whole(tmp_path):
    for seed in range(SAMPLE):
        file = hostile.policy(tmp_path / f"{seed}.json")
        what, damage = hostile.of_policy(Random(seed))
        damage(file)
        if not refusal(lambda file=file: read_policy(file)):
            found = read_policy(file)
            assert found.schedule.guided_steps(found.steps) == {*found.guided}, what


# --- findings ---------------------------------------------------------------------------------------------------------


def test_damaged_findings_are_refused_by_name_or_make_a_page(tmp_path):
    hostile.finding(tmp_path / "whole")
    for seed in range(SAMPLE):
        out = tmp_path / str(seed)
        shutil.copytree(tmp_path / "whole", out)
        what, damage = hostile.of_finding(Random(seed))
        damage(out / "f4")
        said = refusal(lambda out=out: write_report(out))
        assert not said or str(out / "f4") in said, what
        if not said:
            assert "<script" not in (out / "report.html").read_text(encoding="utf-8"), what


def test_a_chart_of_any_size_is_an_image_and_runs_nothing(tmp_path):
    folder = hostile.finding(tmp_path)
    for svg in (
        hostile.SCRIPT,
        "<svg " * 400_000,
        "<svg viewBox='0 0 0 -1'/>",
        "<svg viewBox='0 0 " + "9" * 500 + " 1'/>",
    ):
        (folder / "chart-curve.svg").write_text(svg)
        hostile.with_digests(folder)
        page = write_report(tmp_path).read_text(encoding="utf-8")
        assert "<script" not in page
        assert '<img src="data:image/svg+xml;base64,' in page


def test_a_finding_of_another_study_is_not_shown_twice(tmp_path):
    hostile.finding(tmp_path)
    shutil.copytree(tmp_path / "f4", tmp_path / "f5")
    with pytest.raises(ShapefirstError, match=r"f5/finding.json' \(it is of the study 'f4'\)"):
        write_report(tmp_path)


def test_a_run_that_is_killed_while_it_stores_loses_neither_the_old_finding_nor_the_new(tmp_path):
    for at in count():
        out = tmp_path / str(at)
        hostile.finding(out)
        facts = json.loads((out / "f4" / "finding.json").read_text())
        (out / "f4" / "finding.json").write_text(json.dumps({**facts, "method": "Old."}))
        if not killed(at, lambda out=out: hostile.finding(out)):
            break
        assert load_stored(out, "f4").method in ("Old.", "So."), at
        recover_all(out)
        assert load_stored(out, "f4").method in ("Old.", "So."), at
        assert [file.name for file in out.iterdir()] == ["f4"]
        hostile.finding(out)
        assert load_stored(out, "f4").method == "So."
    assert at > 8


def test_a_folder_of_the_user_s_with_a_like_name_is_left_alone(tmp_path):
    (tmp_path / ".f4-abcdefgh").mkdir()
    (tmp_path / ".f4-abcdefgh" / "notes.txt").write_text("years of work")
    hostile.finding(tmp_path)
    recover_all(tmp_path)
    assert (tmp_path / ".f4-abcdefgh" / "notes.txt").exists()


# --- sweeps -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return hostile.sweep(tmp_path_factory.mktemp("swept") / "sweep")


def read(folder):
    """All that a report reads of a sweep."""
    store = Store(str(folder))
    found = summarise(store)
    read_latencies(store.text("latency.json") or "[]")
    pictures_of(store, store.plan(), found.conditions)
    return found


def test_damaged_sweeps_are_refused_or_left_out_by_name(swept, tmp_path):
    whole = read(swept)
    assert whole.shards == 2
    assert whole.left_out == ()
    for seed in range(SAMPLE // 3):  # whose intervals take their time
        folder = tmp_path / str(seed)
        shutil.copytree(swept, folder)
        what, damage = hostile.of_sweep(Random(seed))
        damage(folder)
        found = []
        said = refusal(lambda folder=folder, found=found: found.append(read(folder)))
        assert not said or any(name in said for name in (str(folder), "latency.json", "0-full.png")), what
        for one in found:
            assert all(sentence.isprintable() for sentence in one.left_out), what
            assert one.shards == 2 or one.left_out or "gone" in what, what
            assert {condition.n for condition in one.conditions} == {2 * one.shards}, what


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("000000 (1).parquet", r"'000000 \(1\).parquet' among its shards is none of them"),
        ("000000.sync-conflict-20260101-120000-ABCDEFG.parquet", "among its shards is none of them"),
        ("cut", "shard 000001 of .*: run the sweep again"),
        ("empty", "shard 000001 of .*: run the sweep again"),
        ("bit", "shard 000001 of .*: run the sweep again"),
        ("pipe", "shard 000001 of .*it is no ordinary file.*: run the sweep again"),
        ("first", "the column 'image' is not as the sweep has it"),
        ("metadata", "its metadata are lost"),
        ("rows", "it has 0 rows, and should have 6"),
        ("keep", "the column 'keep' is missing"),
        ("l1", "the column 'l1' should be numbers, and is string"),
        ("steps", "the column 'steps' should be whole numbers, and is double"),
        ("features", "the column 'features' should be lists of numbers"),
        ("nan", "the column 'features' holds numbers that cannot be"),
        ("text_steps", "the column 'text_steps' holds numbers that cannot be"),
        ("edited", "its rows are not those that were written"),
        ("undefined", "its rows are not those that were written"),
        ("new", "has other columns or features than those before it"),
    ],
)
def test_a_shard_that_is_no_longer_itself_is_left_out_and_said(swept, tmp_path, what, why):
    folder = tmp_path / "sweep"
    shutil.copytree(swept, folder)
    first, file = (folder / "shards" / f"00000{i}.parquet" for i in range(2))
    table = parquet.read_table(file)

    def with_column(name, values):
        return table.set_column(table.column_names.index(name), name, pyarrow.array(values))

    def with_digest(changed):
        about = {**changed.schema.metadata, rows._DIGEST.encode(): rows._digest(changed)}
        return changed.replace_schema_metadata(about)

    n = len(table)
    nan = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array([float("nan")] * 3 * n, pyarrow.float32()), 3)
    tables = {
        "metadata": lambda: table.replace_schema_metadata(None),
        "rows": lambda: table.slice(0, 0),
        "keep": lambda: table.drop_columns(["keep"]),
        "l1": lambda: with_column("l1", ["x"] * n),
        "steps": lambda: with_column("steps", [4.0] * n),
        "features": lambda: with_column("features", [[1.0]] * n),
        "nan": lambda: table.set_column(table.column_names.index("features"), "features", nan),
        "text_steps": lambda: with_column("text_steps", [5] * n),
        "edited": lambda: with_column("l1", [0.9] * n),
        "undefined": lambda: with_column("l1", [float("nan")] * n),
        "new": lambda: with_digest(table.append_column("new", pyarrow.array([0.5] * n))),
    }
    content = bytearray(file.read_bytes())
    if what in tables:
        parquet.write_table(tables[what](), file)
    elif what == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif what == "first":
        shutil.copy(first, file)
    elif what.endswith(".parquet"):
        shutil.copy(first, folder / "shards" / what)
    else:
        content[len(content) // 4] ^= 4
        file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "bit": content}[what])
    found = read(folder)
    (said,) = found.left_out
    assert re.search(why, said)
    assert found.shards == (2 if what.endswith(".parquet") else 1)
    assert {condition.n for condition in found.conditions} == {2 * found.shards}


def test_a_sweep_of_nothing_whole_is_refused(swept, tmp_path):
    shutil.copytree(swept, tmp_path / "sweep")
    for file in (tmp_path / "sweep" / "shards").iterdir():
        file.write_bytes(b"PAR1")
    with pytest.raises(ShapefirstError, match=r"Cannot read the shard 000001.*run the sweep again"):
        read(tmp_path / "sweep")


def test_prompts_that_do_not_fit_the_manifest_are_not_taken(swept, tmp_path):
    shutil.copytree(swept, tmp_path / "sweep")
    for content in (b"", b"one\n", b"\xff\n" * 4):
        (tmp_path / "sweep" / "prompts.txt").write_bytes(content)
        with pytest.raises(ShapefirstError, match=r"prompts.txt.*run the sweep again, which mends it"):
            read(tmp_path / "sweep")


def test_a_table_to_paste_shows_names_as_they_are(tmp_path):
    summary = Summary(("policy", "a|b"), ((hostile.NASTY, "`1`"), ("_x_", "~~y~~")), hostile.NASTY)
    text = markdown(Finding((), {}, (summary,)), 0)
    lines = text.splitlines()
    assert len(lines) == 6
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines[2:])
    assert re.search(r"(?<!\\)[<\[`~*_]", text) is None
    assert "\x1b" not in text
