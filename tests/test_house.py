"""One more of a kind is one entry: what is registered here appears in the commands without any other change."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from commands import one_sentence
from PIL import Image
from typer.testing import CliRunner

import shapefirst as package
from shapefirst import TextSchedule
from shapefirst.cli.app import app
from shapefirst.families import FAMILIES, family_of
from shapefirst.families.stable_diffusion import StableDiffusion
from shapefirst.findings.finding import Finding, Study, claim
from shapefirst.findings.order import STUDIES
from shapefirst.findings.storage import load_stored
from shapefirst.measure.intervals import Rule, bootstrap
from shapefirst.measure.scores import SCORES
from shapefirst.policies.words import POLICIES
from shapefirst.sampling.loop import denoise, generators


def shapefirst(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_policy(monkeypatch, tmp_path, make_pipe):
    make_pipe().save_pretrained(tmp_path / "model")
    monkeypatch.setitem(POLICIES, "edges", lambda value: TextSchedule.at([0, int(value) - 1], order=0))
    words = ["--model", tmp_path / "model", "--steps", 6, "--policy", "edges:6", "--out", tmp_path / "out"]
    result = shapefirst("generate", "a red car", *words)
    assert result.exit_code == 0, result.stderr
    assert "#....#" in result.stdout
    assert "edges" in shapefirst("generate", "a red car", "--policy", "nothing:1").stderr


def register(monkeypatch, run):
    """A study z1 in a module of its own."""
    module = ModuleType("studies_of.mine")
    module.STUDY = Study(
        name="z1",
        title="Mine",
        question="Is it listed?",
        paper="-",
        needs="prompts",
        count=4,
        quick=2,
        run=run,
    )
    monkeypatch.setitem(sys.modules, "studies_of", ModuleType("studies_of"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(STUDIES, "z1", module.__name__)


def test_a_study(monkeypatch):
    register(monkeypatch, lambda subject, prompts: None)
    listed = shapefirst("study", "--list").stdout
    assert "z1" in listed
    assert "Is it listed?" in listed


def test_a_score(monkeypatch, tmp_path):
    class Redness:
        title, unit = "Redness", "share"

        def __init__(self, model, device):
            self.model = model

        def score(self, images, prompts):
            return np.full(len(images), float(self.model))

    def score_it(subject, prompts):
        images = [Image.new("RGB", (8, 8))] * len(prompts)
        values = {name: score.score(images, prompts) for name, score in subject.alignments.items()}
        found = bootstrap(values["redness"])
        return Finding((claim("It is red.", paper="-", quantity="s", found=found, rule=Rule("above", 0.5)),), values)

    monkeypatch.setitem(SCORES, "redness", Redness)
    register(monkeypatch, score_it)
    words = ("z1", "--quick", "--dtype", "float32", "--out", tmp_path / "out")
    result = shapefirst("study", *words, "--score", "redness=0.75")
    assert result.exit_code == 0, result.output
    assert load_stored(tmp_path / "out", "z1").claims[0].found.estimate == 0.75
    assert "There is no score 'blueness': say one of vqa, vlm, redness" in one_sentence(
        shapefirst("study", *words, "--score", "blueness=1")
    )
    assert "say vqa=ID" in one_sentence(shapefirst("study", *words, "--score", "vqa"))


def test_a_family(monkeypatch, make_pipe):
    class Deaf(StableDiffusion):
        name = "Deaf"

        def evaluate(self, pipe, denoiser, x, t, rows):
            return torch.zeros_like(x)

    pipe = make_pipe()
    monkeypatch.setitem(FAMILIES, type(pipe).__name__, Deaf())
    assert family_of(pipe).name == "Deaf"
    (step,) = denoise(pipe, "a red car", num_inference_steps=1, generator=generators([0]))
    assert not step.eps.any()


def test_one_name_is_one_thing():
    """No two public classes or functions share a name; `run` is what every study calls what it does."""
    home = Path(package.__file__).parent
    places: dict[str, list[str]] = {}
    for file in home.rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(file.relative_to(home)))
    assert {name: files for name, files in places.items() if len(files) > 1 and name != "run"} == {}


def test_no_module_shadows_the_standard_library():
    home = Path(package.__file__).parent
    names = {path.stem for path in home.rglob("*.py")} | {path.name for path in home.rglob("*") if path.is_dir()}
    assert not names & sys.stdlib_module_names


def test_every_room_says_what_it_is():
    home = Path(package.__file__).parent
    rooms = [path for path in home.iterdir() if (path / "__init__.py").is_file()]
    assert len(rooms) + len(list(home.glob("*.py"))) <= 26
    for room in rooms:
        said = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert "import" in said, room.name


#: Files that are longer than they should be, until somebody has cut them: none may be added.
_TO_COME = {"studies/f1_shape_first.py", "studies/f7_savings.py"}


def test_every_file_fits_into_a_head():
    home = Path(package.__file__).parent
    lengths = {str(file.relative_to(home)): len(file.read_text("utf-8").splitlines()) for file in home.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 350 and name not in _TO_COME} == {}


def commands_of(some_app):
    """Every command's function, as it is written: without what a decorator has put around it."""
    infos = [*some_app.registered_commands, *([some_app.registered_callback] if some_app.registered_callback else [])]
    found = [inspect.unwrap(info.callback) for info in infos]
    return found + [one for group in some_app.registered_groups for one in commands_of(group.typer_instance)]


def test_commands_are_words_and_wiring():
    """At most 40 lines behind the signature and the docstring: the work is done in the rooms below."""
    commands = commands_of(app)
    assert len(commands) > 15
    for command in commands:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(command))).body
        said, *body = function.body
        assert isinstance(said.value, ast.Constant), command.__name__
        assert not body or body[-1].end_lineno - body[0].lineno < 40, command.__name__
