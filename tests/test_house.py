"""One more of a kind is one entry: what is registered here appears in the commands without any other change."""

from __future__ import annotations

import sys
from types import ModuleType

import torch
from typer.testing import CliRunner

from shapefirst import TextSchedule
from shapefirst.cli.app import app
from shapefirst.families import FAMILIES, family_of
from shapefirst.families.stable_diffusion import StableDiffusion
from shapefirst.findings.finding import Study
from shapefirst.findings.order import STUDIES
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


def test_a_study(monkeypatch):
    module = ModuleType("studies_of.mine")
    module.STUDY = Study(
        name="z1",
        title="Mine",
        question="Is it listed?",
        paper="-",
        needs="prompts",
        count=4,
        quick=2,
        run=lambda subject, prompts: None,
    )
    monkeypatch.setitem(sys.modules, "studies_of", ModuleType("studies_of"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(STUDIES, "z1", module.__name__)
    listed = shapefirst("study", "--list").stdout
    assert "z1" in listed
    assert "Is it listed?" in listed


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
