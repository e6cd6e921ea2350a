"""Findings come back from disk as they went there, whole or not at all."""

import json
import math
import os
import subprocess
import sys
from dataclasses import astuple, replace

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from shapefirst.errors import ShapefirstError
from shapefirst.findings.finding import Chart, Finding, Picture, Study, Summary, claim
from shapefirst.findings.results import results
from shapefirst.findings.storage import StudySetting, load_all, load_stored, mismatch, save, save_inapplicable
from shapefirst.measure.intervals import Interval, Rule

HOSTILE = "<script>alert(\"1\")</script> & ein Käse\u2028奶酪 🧀\n'x'"
SETTING = StudySetting(
    "pocket", "abc", "0.1.0", 7, 50, 7.5, "ddim", False, 4, "def", "shapefirst study f4 --seed 7", "2 cores", 12.5
)
STUDY = Study("f4", "Which token", HOSTILE, "The [EOS].", "pairs", 64, lambda *_: None)


def finding(**changes):
    found = Finding(
        claims=(
            claim(
                HOSTILE,
                paper="above 0.9",
                quantity="share",
                found=Interval(0.1 + 0.2, -1e-9, 1.0, 4),
                rule=Rule("above", 0.3),
                if_not="Because.",
            ),
            claim(
                "b",
                paper="",
                quantity="dB",
                found=Interval(np.float64(2), np.float32(1.5), math.inf, np.int64(30)),
                rule=Rule("below", 1),
            ),
        ),
        table={"prompt": [HOSTILE, "b"], "score": np.array([0.5, math.nan]), "k": [1, None], "kept": [True, False]},
        summaries=(Summary(("kind", "n"), (("colour", "3"), (HOSTILE, "1")), "By kind."),),
        charts=(
            Chart("a/b", "<svg>ä</svg>", "caption", "alt"),
            Chart("A?B", "<svg/>", HOSTILE, HOSTILE),
        ),
        pictures=(Picture("sheet", Image.effect_noise((9, 5), 50).convert("RGB"), "caption", "alt"),),
        method="So.",
        evaluations=100,
        evaluations_apart=260.5,
    )
    return replace(found, **changes)


def test_a_finding_has_reached_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, fsync = set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.add(os.fstat(number).st_ino), fsync(number)))
    folder = save(tmp_path, STUDY, finding(), SETTING)
    assert {file.stat().st_ino for file in folder.iterdir()} <= synced


def test_every_field_comes_back(tmp_path):
    found = finding()
    folder = save(tmp_path / "new", STUDY, found, SETTING)
    assert folder == tmp_path / "new" / "f4"
    stored = load_stored(tmp_path / "new", "f4")
    assert (stored.name, stored.title, stored.question) == ("f4", "Which token", HOSTILE)
    assert (stored.paper, stored.needs, stored.reason) == ("The [EOS].", "pairs", "")
    assert stored.setting == SETTING
    assert [astuple(c) for c in stored.claims] == [astuple(c) for c in found.claims]
    assert [c.verdict for c in stored.claims] == ["inconclusive", "does not replicate"]
    assert stored.claims[0].hypothesis == "Because."
    assert stored.summaries == found.summaries
    assert stored.charts == found.charts
    (picture,) = stored.pictures
    assert (picture.name, picture.width, picture.height, picture.caption, picture.alt) == (
        "sheet",
        9,
        5,
        "caption",
        "alt",
    )
    assert Image.open(folder / "picture-sheet.png").tobytes() == found.pictures[0].image.tobytes()
    assert picture.png == (folder / "picture-sheet.png").read_bytes()
    assert (stored.method, stored.evaluations, stored.evaluations_apart) == ("So.", 100, 260.5)


def test_the_table_comes_back_with_its_types_and_remembers_the_setting(tmp_path):
    folder = save(tmp_path, STUDY, finding(), SETTING)
    table = parquet.read_table(folder / "table.parquet")
    assert [str(t) for t in table.schema.types] == ["string", "double", "int64", "bool"]
    assert table["prompt"].to_pylist() == [HOSTILE, "b"]
    assert table["score"].to_pylist()[0] == 0.5
    assert math.isnan(table["score"].to_pylist()[1])
    assert table["k"].to_pylist() == [1, None]
    assert json.loads(table.schema.metadata[b"shapefirst"])["seed"] == 7


def test_what_is_stored_is_strict_json(tmp_path):
    found = finding(
        claims=(claim("c", paper="", quantity="", found=Interval(1, math.nan, 2, 3), rule=Rule("above", 0)),)
    )
    text = (save(tmp_path, STUDY, found, SETTING) / "finding.json").read_text(encoding="utf-8")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    json.loads(text, parse_constant=refuse)
    assert math.isnan(load_stored(tmp_path, "f4").claims[0].found.low)


def test_a_study_that_does_not_apply_keeps_its_reason_and_has_no_finding(tmp_path):
    save_inapplicable(tmp_path, STUDY, "There is no [SOS].", SETTING)
    stored = load_stored(tmp_path, "f4")
    assert (stored.reason, stored.claims, stored.charts, stored.title) == ("There is no [SOS].", (), (), "Which token")


def test_nothing_stored_is_none(tmp_path):
    assert load_stored(tmp_path, "f4") is None
    assert load_stored(tmp_path / "absent", "f4") is None
    assert load_all(tmp_path / "absent") == []


def test_all_come_in_the_order_of_the_studies(tmp_path):
    for name in ("x1", "a2", "f7", "f1"):
        save_inapplicable(tmp_path, replace(STUDY, name=name), "no", SETTING)
    (tmp_path / "notes").mkdir()
    (tmp_path / "report.html").write_text("old")
    assert [stored.name for stored in load_all(tmp_path)] == ["f1", "f7", "a2", "x1"]


def test_a_second_run_replaces_all_of_the_first(tmp_path):
    save(tmp_path, STUDY, finding(), SETTING)
    save(tmp_path, STUDY, finding(charts=(), method="Anew."), replace(SETTING, seed=8))
    stored = load_stored(tmp_path, "f4")
    assert (stored.method, stored.setting.seed, stored.charts) == ("Anew.", 8, ())
    assert not list((tmp_path / "f4").glob("chart-*"))
    assert [p.name for p in tmp_path.iterdir()] == ["f4"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("when", ["finding.json", "the new folder"])
def test_an_interrupted_run_leaves_the_earlier_finding(tmp_path, monkeypatch, stop, when):
    from pathlib import Path

    save(tmp_path, STUDY, finding(), SETTING)
    write, rename = Path.write_text, Path.rename

    def write_half(self, text, **settings):
        write(self, text[:50], **settings)
        raise stop

    def stop_at_the_new(self, target):
        if self.name == "new":
            raise stop
        return rename(self, target)

    if when == "finding.json":
        monkeypatch.setattr(Path, "write_text", write_half)
    else:
        monkeypatch.setattr(Path, "rename", stop_at_the_new)
    with pytest.raises(stop):
        save(tmp_path, STUDY, finding(method="half"), SETTING)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["f4"]
    assert load_stored(tmp_path, "f4").method == "So."


@pytest.mark.parametrize(
    "name", ["finding.json", "table.parquet", "chart-a-b.svg", "chart-a-b-2.svg", "picture-sheet.png"]
)
@pytest.mark.parametrize("damage", ["cut off", "gone", "changed"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, name, damage):
    folder = save(tmp_path, STUDY, finding(), SETTING)
    path = folder / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut off" else b"\xff" + content[1:])
    with pytest.raises(ShapefirstError) as error:
        load_stored(tmp_path, "f4")
    said = str(error.value)
    assert str(folder) in said
    assert "\n" not in said
    assert name in said
    if (name, damage) == ("finding.json", "gone"):
        assert "choose another output folder" in said  # nothing shows that the folder is ours to delete
    else:
        assert "run the study again" in said


@pytest.mark.parametrize("facts", ["[]", "null", '{"format": 2}', '{"format": 1, "setting": {}}', "{}"])
def test_json_that_is_no_finding_is_refused(tmp_path, facts):
    (tmp_path / "f4").mkdir()
    (tmp_path / "f4" / "finding.json").write_text(facts)
    with pytest.raises(ShapefirstError, match="run the study again"):
        load_stored(tmp_path, "f4")


def test_files_outside_the_folder_are_not_read(tmp_path):
    folder = save(tmp_path, STUDY, finding(), SETTING)
    (tmp_path / "secret").write_text("x")
    facts = json.loads((folder / "finding.json").read_text(encoding="utf-8"))
    facts["charts"][0]["file"] = "../secret"
    facts["files"]["../secret"] = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    (folder / "finding.json").write_text(json.dumps(facts))
    with pytest.raises(ShapefirstError, match="secret"):
        load_stored(tmp_path, "f4")


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "f4").mkdir()
    (tmp_path / "f4" / "thesis.tex").write_text("years of work")
    with pytest.raises(ShapefirstError, match="choose another output folder"):
        save(tmp_path, STUDY, finding(), SETTING)
    assert (tmp_path / "f4" / "thesis.tex").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ShapefirstError, match="Cannot write"):
        save(tmp_path / "file", STUDY, finding(), SETTING)


@pytest.mark.parametrize("table", [{"a": [1, 2], "b": [1]}, {"a": [1, "two"]}, {"a": [object()]}])
def test_columns_that_make_no_table_are_refused_before_anything_is_written(tmp_path, table):
    with pytest.raises(ShapefirstError, match="do not make a table"):
        save(tmp_path, STUDY, finding(table=table), SETTING)
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_one_sentence_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ShapefirstError, match=r"pyarrow: pip install .*\.\[studies\]"):
        save(tmp_path, STUDY, finding(), SETTING)


def test_reading_needs_no_torch_matplotlib_pyarrow_or_study(tmp_path):
    save(tmp_path, STUDY, finding(), SETTING)
    program = (
        "import sys; from pathlib import Path\n"
        "heavy = ('torch', 'diffusers', 'transformers', 'matplotlib', 'pyarrow')\n"
        "for name in (*heavy, 'shapefirst.studies.f4_eos_decides'):\n"
        "    sys.modules[name] = None\n"
        "from shapefirst.findings.storage import load_all\n"
        "from shapefirst.report import render_report\n"
        f"print(len(render_report(load_all(Path({str(tmp_path)!r})))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000


def test_the_same_setting_is_no_mismatch_whatever_machine_version_time_and_command():
    other = replace(SETTING, machine="H200", version="0.0.9", seconds=1.0, command="other", quick=True)
    assert mismatch(SETTING, other) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "sd15"}, "model sd15 instead of pocket"),
        ({"fingerprint": "other"}, "other weights of the same model"),
        ({"seed": 0}, "seed 0 instead of 7"),
        ({"steps": 10}, "steps 10 instead of 50"),
        ({"guidance_scale": 2.0}, "guidance scale 2.0 instead of 7.5"),
        ({"sampler": "dpm"}, "sampler dpm instead of ddim"),
        ({"count": 64}, "number of prompts 64 instead of 4"),
        ({"prompts": "other"}, "other prompts or pictures"),
        ({"seed": 0, "steps": 10}, "seed 0 instead of 7, steps 10 instead of 50"),
        ({"count": 64, "prompts": "other"}, "number of prompts 64 instead of 4"),
    ],
)
def test_a_mismatch_says_what_differs(change, words):
    assert mismatch(replace(SETTING, **change), SETTING) == words


def test_results_are_tables_of_claims_and_of_each_study(tmp_path):
    with pytest.raises(ShapefirstError, match="no results of studies"):
        results(tmp_path)
    save(tmp_path, STUDY, finding(), SETTING)
    save(tmp_path, replace(STUDY, name="mine"), finding(), SETTING)
    save_inapplicable(tmp_path, replace(STUDY, name="f3"), "It has no [SOS].", SETTING)
    found = results(str(tmp_path))
    assert list(found) == ["f4", "mine"]
    assert found["f4"].column_names == ["prompt", "score", "k", "kept"]
    assert found["mine"].num_rows == 2
    rows = found.claims.to_pylist()
    assert [(row["study"], row["verdict"]) for row in rows] == [
        ("f3", "does not apply"),
        *[("f4", claim.verdict) for claim in finding().claims],
        *[("mine", claim.verdict) for claim in finding().claims],
    ]
    assert (rows[0]["hypothesis"], rows[0]["n"]) == ("It has no [SOS].", None)
    assert (rows[1]["estimate"], rows[1]["low"], rows[1]["n"]) == (0.1 + 0.2, -1e-9, 4)
    assert "f4, mine" in repr(found)
    assert found.get("f7") is None
    with pytest.raises(KeyError, match=r"^There is no table 'f7' in '.*': the tables are f4, mine, and `claims`\.$"):
        found["f7"]
    with pytest.raises(ShapefirstError, match=r"f3 has no table, as it does not apply: It has no \[SOS\]"):
        found["f3"]
