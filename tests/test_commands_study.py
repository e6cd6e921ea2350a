"""`shapefirst study` and `shapefirst report`: what they print and leave behind, and one sentence for bad input."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import holding, one_sentence, shapefirst
from PIL import Image
from safetensors.torch import save_file

from shapefirst import models, studies
from shapefirst.cli import study as commands_study
from shapefirst.errors import ShapefirstError
from shapefirst.files import LOCK
from shapefirst.findings.finding import DoesNotApply, Finding, Picture, Study, claim
from shapefirst.findings.storage import load_stored
from shapefirst.findings.tables import cell
from shapefirst.measure import scores
from shapefirst.measure.intervals import Rule, bootstrap
from shapefirst.studies import a2_alone, f1_shape_first, f4_eos_decides

#: What the fake studies do in their middle, by name.
ACT: dict = {}
RAN: list = []
REAL_ALIGNMENTS = scores.alignments_for


def fake(name):
    def measure(subject, items):
        subject.meter.expect(len(items))
        ACT.get(name, lambda: None)()
        subject.meter.add(len(items))
        RAN.append((name, subject, items))
        statement = f"{name} holds <b>and [/bold] more."
        found = bootstrap([0.25] * len(items))
        return Finding(
            (claim(statement, paper="yes", quantity="score", found=found, rule=Rule("above", 0)),),
            {"value": [0.25] * len(items)},
            pictures=(Picture("one", Image.new("RGB", (4, 4)), "A caption.", "Black."),),
        )

    return Study(
        name, f"Title of {name}", f"Does {name}?", "Yes.", "pairs" if name == "f4" else "prompts", 9, measure, quick=3
    )


@pytest.fixture(autouse=True)
def fakes(monkeypatch, tmp_path):
    """Three studies in place of all; no model is loaded, and the weights are a file of four bytes."""
    ACT.clear()
    RAN.clear()
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"1234")
    monkeypatch.setattr(studies, "study_named", fake)
    every = studies.chosen
    monkeypatch.setattr(studies, "chosen", lambda names: every(["f1", "f4", "a2"] if names == ["all"] else names))
    monkeypatch.setattr("shapefirst.models.loader.embedded_folder", lambda name: weights)
    monkeypatch.setattr("shapefirst.models.locate", lambda name: weights)
    for place in ("shapefirst.cli.loading", "shapefirst.cli.study"):
        monkeypatch.setattr(f"{place}.load_quietly", lambda *arguments, **more: "the pipeline")
    monkeypatch.setattr("shapefirst.images.jobs.cut_text", lambda pipe, text: text[60:])
    monkeypatch.setattr(scores, "alignments_for", lambda name, **scorers: {"judge": (name, scorers)})
    return weights


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


def study(out, *arguments):
    return shapefirst("study", *arguments, "--out", out)


def ran():
    return [name for name, _, _ in RAN]


def test_all_studies_make_results_a_table_and_one_page(out):
    result = study(out, "all")
    assert result.exit_code == 0, result.output
    assert ran() == ["f1", "f4", "a2"]
    assert sorted(path.name for path in out.iterdir()) == ["a2", "f1", "f4", "report.html"]
    assert [line.split(" (")[0] for line in result.stderr.splitlines()] == [
        f"{name}  Title of {name}: replicates" for name in ("f1", "f4", "a2")
    ]
    assert "f4 holds <b>and [/bold] more." in result.stdout
    assert "score: 0.25 (0.25 to 0.25)" in result.stdout
    assert result.stdout.splitlines()[-1] == f"Report: {out / 'report.html'}"
    assert "Title of a2" in (out / "report.html").read_text()


def test_several_models_are_studied_in_turn_and_stand_on_one_page(out):
    result = study(out, "f1", "a2", "--model", "sd15", "--model", "sd21")
    assert result.exit_code == 0, result.output
    assert [(name, subject.name) for name, subject, _ in RAN] == [
        (n, m) for m in ("sd15", "sd21") for n in ("f1", "a2")
    ]
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "sd15", "sd21"]
    assert sorted(path.name for path in (out / "sd21").iterdir()) == ["a2", "f1", "report.html"]
    assert result.stderr.splitlines()[-1] == "of 2 claims the models agree in 2, differ in 0; open: 0"
    assert result.stdout.splitlines()[-1] == f"Report: {out / 'report.html'}"
    command = load_stored(out / "sd21", "a2").setting.command
    assert command == f"shapefirst study a2 --model sd21 --out {out / 'sd21'}"
    assert shapefirst(*shlex.split(command)[1:]).exit_code == 0
    again = study(out, "f1", "a2", "--model", "sd15", "--model", "sd21")
    assert (again.stderr.count("kept from an earlier run"), len(RAN)) == (4, 4)
    page = out / "report.html"
    page.unlink()
    assert shapefirst("report", out).stdout == f"Report: {page}\n"
    assert "measured on sd15 and sd21" in page.read_text()


def test_several_models_are_told_apart_before_anything_runs(out):
    assert one_sentence(study(out, "f1", "--model", "sd15", "--model", "sd15")).endswith(
        "--model sd15 is given twice: name each model once.\n"
    )
    assert study(out, "f1").exit_code == 0
    said = one_sentence(study(out, "f1", "--model", "sd15", "--model", "sd21"))
    assert said.endswith("holds the findings of a run of one model: choose another --out for several.\n")
    assert ran() == ["f1"]


def test_names_are_in_any_case_and_order(out):
    assert study(out, "A2", "f1", "F1").exit_code == 0
    assert ran() == ["f1", "a2"]


def test_the_subject_is_what_the_options_say(out):
    result = study(
        *(out, "f1", "--model", "sd15", "--seed", 7, "--steps", 20, "--sampler", "euler"),
        *("--guidance-scale", 3, "--batch-size", 5, "--prompts", 4, "--clip", "a/clip", "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    ((_, subject, items),) = RAN
    assert (subject.name, subject.pipe, subject.seed, subject.steps) == ("sd15", "the pipeline", 7, 20)
    assert (subject.guidance_scale, subject.sampler, subject.batch_size) == (3.0, "euler", 5)
    name, scorers = subject.alignments["judge"]
    assert (name, scorers) == ("sd15", {"clip": "a/clip", "vqa": None, "vlm": None, "device": "cpu", "judge": True})
    assert len(items) == 4
    assert load_stored(out, "f1").setting.fingerprint.endswith("+clip a/clip")


def test_loras_and_offloading_are_put_on_the_model_and_told_apart(out, tmp_path, monkeypatch):
    style, put = tmp_path / "style.safetensors", []
    save_file({"x": torch.zeros(1)}, style)
    monkeypatch.setattr("shapefirst.models.lora.add_loras", lambda pipe, loras: put.append((pipe, loras)))
    monkeypatch.setattr("shapefirst.models.offloading.offload", lambda pipe, *how: put.append((pipe, *how)))
    offloaded = ("--offload", "model", "--device", "cpu")
    assert "here is none: leave it out" in one_sentence(study(out, "f1", *offloaded))
    monkeypatch.setattr("shapefirst.models.offloading.check_offload", lambda device: None)
    words = ("f1", "--lora", f"{style}=0.5", *offloaded)

    assert study(out, *words).exit_code == 0
    assert put == [("the pipeline", [(style, 0.5)]), ("the pipeline", "model", "cpu")]
    setting = load_stored(out, "f1").setting
    assert setting.fingerprint.endswith("+lora style.safetensors=0.5")
    assert f"--lora {style}=0.5" in setting.command
    assert study(out, *words).exit_code == 0
    assert ran() == ["f1"]
    assert "kept" not in one_sentence(study(out, "f1", "--lora", f"{style}=0.6"))
    save_file({"x": torch.ones(1)}, style)
    assert "weights" in one_sentence(study(out, *words))
    both = ("a6", "--ip-adapter", style, *offloaded)
    assert "--ip-adapter does not go with --offload" in one_sentence(study(tmp_path / "other", *both))


def test_without_options_the_models_own_guidance_scale_is_taken(out):
    study(out, "f1")
    assert RAN[-1][1].guidance_scale == 4.0
    study(out / "sd", "f1", "--model", "sd15")
    assert RAN[-1][1].guidance_scale == 7.5
    assert (RAN[0][1].batch_size, RAN[1][1].batch_size) == (32, 4)


def test_the_number_of_prompts_is_the_studys_own_or_the_quick_one_or_the_users(tmp_path):
    for name, options in {"own": [], "quick": ["--quick"], "mine": ["--quick", "--prompts", 5]}.items():
        study(tmp_path / name, "f1", *options)
    assert [(len(items), subject.steps) for _, subject, items in RAN] == [(9, 50), (3, 16), (5, 16)]


def test_the_stored_command_repeats_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my prompts.txt"
    file.write_text("a red car\na glass cat\na blue key\n")
    options = ["--quick", "--prompts-file", file, "--seed", 3, "--guidance-scale", 5.5, "--vqa", "some/vqa"]
    assert study(tmp_path / "a", "f1", "f4", *options, "--force").exit_code == 0
    first = load_stored(tmp_path / "a", "f4").setting
    name, *arguments = shlex.split(first.command)
    assert (name, arguments[:2]) == ("shapefirst", ["study", "f4"])
    assert "--force" not in arguments
    arguments[arguments.index("--out") + 1] = str(tmp_path / "b")
    assert shapefirst(*arguments).exit_code == 0
    second = load_stored(tmp_path / "b", "f4").setting
    assert (second.prompts, second.seed, second.guidance_scale) == (first.prompts, 3, 5.5)
    assert second.fingerprint == first.fingerprint

    assert shapefirst("study", "f1").exit_code == 0
    assert load_stored(tmp_path / "out" / "studies", "f1").setting.command == "shapefirst study f1"


def test_finished_studies_are_kept_without_loading_the_model(out, monkeypatch):
    study(out, "f1")
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()

    def must_not(*_, **__):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(commands_study, "load_quietly", must_not)
        again = study(out, "f1")
    assert again.exit_code == 0, again.output
    assert again.stderr == "f1  Title of f1: replicates (kept from an earlier run)\n"
    assert "f1 holds" in again.stdout
    assert (out / "report.html").read_bytes() == page

    assert study(out, "f1", "a2").exit_code == 0
    assert ran() == ["f1", "a2"]


def test_an_interruption_ends_with_130_and_what_is_finished_stays(out):
    def stop():
        raise KeyboardInterrupt

    ACT["f4"] = stop
    result = study(out, "all")
    assert result.exit_code == 130
    assert result.stderr.endswith("Error: interrupted.\n")
    assert sorted(path.name for path in out.iterdir()) == ["f1", "report.html"]
    assert "Title of f1" in (out / "report.html").read_text()

    ACT.clear()
    assert study(out, "all").exit_code == 0
    assert ran() == ["f1", "f4", "a2"]


def test_a_folder_in_use_is_not_touched_and_that_of_a_killed_run_is_taken(out):
    with holding(out / LOCK) as first:
        assert f"is in use by process {first.pid} on " in one_sentence(study(out, "all"))
        assert [path.name for path in out.iterdir()] == [LOCK]
    ACT["f1"] = lambda: RAN.append(sorted(path.name for path in out.iterdir()))
    assert study(out, "f1", "a2").exit_code == 0
    assert RAN.pop(0) == [LOCK]  # held by this run
    assert ran() == ["f1", "a2"]
    assert sorted(path.name for path in out.iterdir()) == ["a2", "f1", "report.html"]


def test_results_of_another_model_or_weights_are_refused(out, fakes):
    study(out, "f1")
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert "model pocket instead of sd15" in one_sentence(study(out, "all", "--model", "sd15"))
    assert "seed 0 instead of 1" in one_sentence(study(out, "f1", "--seed", 1))
    assert "number of prompts 9 instead of 3" in one_sentence(study(out, "f1", "--quick"))
    (fakes / "model.safetensors").write_bytes(b"4321")
    assert "other weights" in one_sentence(study(out, "a2"))
    assert before == {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert ran() == ["f1"]

    assert study(out, "f1", "--force").exit_code == 0
    assert ran() == ["f1", "f1"]


def test_force_leaves_other_studies_alone_and_says_so(out):
    study(out, "f1", "--seed", 1)
    result = study(out, "a2", "--force")
    assert result.exit_code == 0, result.output
    assert "also shows f1" in result.stderr
    assert load_stored(out, "f1").setting.seed == 1


def test_a_study_that_does_not_apply_is_shown_with_its_reason(out):
    def refuse():
        raise DoesNotApply("T5 has no [SOS].")

    ACT["f1"] = refuse
    result = study(out, "f1", "a2")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("f1  Title of f1: does not apply: T5 has no [SOS]. (")
    assert "T5 has no [SOS]." in result.stdout
    assert "T5 has no [SOS]." in (out / "report.html").read_text()
    assert ran() == ["a2"]


def test_any_other_error_of_a_study_ends_the_run(out):
    def fail():
        raise ShapefirstError("The prompt is too long.")

    ACT["f4"] = fail
    result = study(out, "all")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: The prompt is too long."
    assert load_stored(out, "f1") is not None
    assert load_stored(out, "f4") is None


def test_a_file_with_fewer_prompts_is_used_whole_and_that_is_said(out, tmp_path):
    file = tmp_path / "three.txt"
    file.write_text("a red car\na glass cat\na blue dragon\n")
    result = study(out, "f1", "--prompts-file", file)
    assert result.exit_code == 0, result.output
    assert "gives 3 prompts, fewer than the 9 that f1 takes by default" in result.stderr
    assert "pocket never saw 'dragon'" in result.stderr
    assert RAN[-1][1].alignments["judge"][1]["judge"] is False
    assert {prompt.text for prompt in RAN[0][2]} == {"a red car", "a glass cat", "a blue dragon"}
    file.write_text("a red car\nthe glass cat\n")  # words that it knows, in a form that the judge does not read
    result = study(out.with_name("other"), "f1", "--prompts-file", file)
    assert "judge scores nothing here because of prompts such as 'the glass cat'" in result.stderr
    assert "you asked for" in study(tmp_path / "b", "f1", "--prompts-file", file, "--prompts", 4).stderr


def test_prompts_that_the_text_encoder_cuts_are_told(out, tmp_path):
    file = tmp_path / "long.txt"
    file.write_text(f"a red car {'and ' * 12}a hat that nobody sees\na glass cat\n")
    result = study(out, "f1", "--prompts-file", file)
    assert result.exit_code == 0, result.output
    assert "1 of 2 prompts are too long" in result.stderr
    assert "from 'hat that nobody sees' on" in result.stderr
    file.write_text("a red car\na glass cat\n")
    assert "too long" not in study(tmp_path / "short", "f1", "--prompts-file", file).stderr


def test_pairs_of_a_file_are_what_the_study_gets(out, tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("a red car\ta glass cat\na blue key\ta wooden hat\n")
    assert study(out, "f4", "--pairs-file", file).exit_code == 0
    assert {pair.source.text for pair in RAN[0][2]} == {"a red car", "a blue key"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Say which studies to run: f1, f2"),
        (["f9"], "no study 'f9': choose from f1"),
        (["all", "x9"], "no study 'x9'"),
        (["f1", "--prompts-file", "absent.txt"], "No such file"),
        (["f1", "--prompts-file", "empty.txt"], "no prompt"),
        (["f1", "--prompts-file", "latin1.txt"], "not UTF-8"),
        (["f4", "--prompts-file", "one.txt"], "only one prompt in 'one.txt'"),
        (["f4", "--prompts-file", "cars.txt"], "share a noun or an attribute"),
        (["f4", "--pairs-file", "one.txt"], "no pair of prompts with a tab"),
        (["f4", "--pairs-file", "pair.tsv"], "only one pair in 'pair.tsv'"),
        (["f1", "--pairs-file", "pair.tsv", "--prompts-file", "cars.txt"], "not both"),
        (["f1", "--prompts", "1"], "--prompts must be at least 2, not 1"),
        (["f1", "--steps", "9"], "--steps must be at least 10, not 9"),
        (["f1", "--guidance-scale", "1"], "--guidance-scale must be above 1, not 1"),
        (["f1", "--guidance-scale", "nan"], "--guidance-scale"),
        (["f1", "--sampler", "leap"], "no sampler 'leap'"),
        (["f1", "--seed", "-1"], "seed must be from 0 to"),
        (["f1", "--seed", "9999999999999999999999"], "not 9999999999999999999999"),
        (["f1", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["f1", "--out", "one.txt"], "Cannot write to 'one.txt'"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "latin1.txt").write_bytes("ein grüner Hut\n".encode("latin-1"))
    (tmp_path / "one.txt").write_text("a red car\na red car\n")
    (tmp_path / "cars.txt").write_text("a red car\na blue car\n")
    (tmp_path / "pair.tsv").write_text("a red car\ta blue cat\n")
    before = sorted(tmp_path.iterdir())
    assert sentence in one_sentence(shapefirst("study", *arguments))
    assert sorted(tmp_path.iterdir()) == before
    assert ran() == []


def test_a_missing_package_is_named_with_the_remedy(out, monkeypatch):
    monkeypatch.setattr(commands_study, "find_spec", lambda name: None if name == "pyarrow" else name)
    said = one_sentence(study(out, "f1"))
    assert "Studies need pyarrow: pip install '" in said
    assert "'pyarrow>=17'" in said


def judging(name):
    return replace(fake(name), judged=name == "f4")


def test_nothing_is_downloaded_unasked(out, monkeypatch):
    """The studies of an own model whose verdicts need no CLIP run without one; the others say what to do."""
    monkeypatch.setattr(studies, "study_named", judging)
    for room in (scores, models):
        monkeypatch.setattr(room, "is_pocket", lambda name: False)
    monkeypatch.setattr(scores, "locate_scorer", lambda name: None)
    said = (
        "which is not on this disk|is not on this disk, and nothing is downloaded unasked: add --clip openai/clip-vit"
    )
    assert re.search(said, one_sentence(study(out, "f4")))
    assert not out.exists()
    result = study(out, "all")
    assert result.exit_code == 0, result.output
    assert ran() == ["f1", "a2"]
    assert "left out: f4 go by how well images show their prompts" in result.stderr
    assert {subject.clip for _, subject, _ in RAN} == {"none"}
    RAN.clear()
    for options in (("--clip", "openai/clip-vit-base-patch16"), ()):
        assert study(out, "f4", *options).exit_code == 0  # the usual one by its name is no other setting
        monkeypatch.setattr(scores, "locate_scorer", lambda name: out)
    assert ran() == ["f4"]


def test_without_a_clip_scores_are_not_known():
    alignments = REAL_ALIGNMENTS("some/model", clip="none")
    values = alignments["clipscore"].score([Image.new("RGB", (4, 4))] * 3, ["a"] * 3)
    assert np.isnan(values).all()
    assert cell(values) == "–"
    assert "no CLIP here" in alignments["clipscore"].title
    assert np.isnan(scores.similarity_for("some/model", "none").score([1], [2])).all()


def test_prompts_are_a_file_or_a_number_everywhere(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("a red car\na blue cup\na green key\n")
    assert study(out, "f1", "--prompts", "mine.txt", "--count", 2).exit_code == 0
    assert study(out.with_name("b"), "f1", "--prompts", 5).exit_code == 0
    assert [len(items) for _, _, items in RAN] == [2, 5]
    assert "both say how many" in one_sentence(study(out, "f1", "--prompts", 5, "--count", 5))
    assert "are the same: give one file" in one_sentence(
        study(out, "f1", "--prompts", "mine.txt", "--prompts-file", "mine.txt")
    )
    assert "must be at least 32" in one_sentence(shapefirst("tune", "--prompts", "8"))
    assert "2 prompts, " in shapefirst("sweep", "plan", "--no-probe", "--prompts", "2").stdout
    assert "3 prompts, " in shapefirst("sweep", "plan", "--no-probe", "--prompts", "mine.txt").stdout


def test_the_list_says_what_each_study_asks():
    result = shapefirst("study", "--list")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "name\ttitle\tquestion"
    for module in (f1_shape_first, f4_eos_decides, a2_alone):
        asked = module.STUDY
        assert f"{asked.name}\t{asked.title}\t{asked.question}\n" in result.stdout


def test_the_report_is_rebuilt_from_the_stored_results_alone(out):
    assert study(out, "f1", "f4").exit_code == 0
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    code = "\n".join(
        [
            "import sys",
            "for name in ('torch', 'matplotlib', 'diffusers', 'transformers', 'pyarrow'): sys.modules[name] = None",
            f"sys.argv = ['shapefirst', 'report', {str(out)!r}]",
            "from shapefirst.cli.app import app",
            "app()",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Report: {out / 'report.html'}\n"
    assert (out / "report.html").read_bytes() == page


def test_a_folder_without_results_gives_no_report(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.txt").write_text("no study")
    for folder in ("other", "absent", "other/photo.txt"):
        one_sentence(shapefirst("report", tmp_path / folder))
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["photo.txt"]
    assert not (tmp_path / "absent").exists()


def test_a_damaged_result_is_named(out):
    study(out, "f1")
    facts = json.loads((out / "f1" / "finding.json").read_text())
    (out / "f1" / "finding.json").write_text(json.dumps(facts)[:40])
    assert "finding.json" in one_sentence(shapefirst("report", out))
    assert "finding.json" in one_sentence(study(out, "f1"))
