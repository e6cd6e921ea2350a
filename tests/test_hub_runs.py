"""The commands on the models that people load: each lays out its repository as on the hub (see `layouts`)."""

from __future__ import annotations

import json

import pytest
import scorers
from layouts import LAYOUTS
from PIL import Image
from typer.testing import CliRunner

from shapefirst.cli import tune as commands_tune
from shapefirst.cli.app import app
from shapefirst.tuning import candidates, search

PROMPTS = [
    f"a {attribute} {noun}{place}"
    for attribute in ("red", "blue", "shiny", "wooden")
    for noun in ("cat", "dog", "car", "house")
    for place in ("", " on the moon")
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return scorers.clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def model(request, tmp_path_factory):
    """A model's folder, with the smallest pictures that it can make: versions before 0.9 insist on 64 x 64 latents."""
    folder = LAYOUTS[request.param].write(tmp_path_factory.mktemp("model"))
    for part in ("unet", "transformer"):
        if (file := folder / part / "config.json").is_file():
            config = json.loads(file.read_text())
            file.write_text(json.dumps({**config, "_diffusers_version": "0.22.0", "sample_size": 8}))
    return folder


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n".join([*PROMPTS[:5], "a red cat and " * 20, *PROMPTS[6:]]) + "\n")
    return file


#: Scheduler that a model comes with -> what it is called here.
OWN = {
    "PNDMScheduler": "own (PNDMScheduler)",
    "DDIMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpm-solver",
    "EulerDiscreteScheduler": "euler",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "DEISMultistepScheduler": "deis",
}


def test_generate(model, tmp_path):
    run("generate", "a red cat", "--model", model, "--steps", 4, "--text-steps", 2, "--out", tmp_path)
    (file,) = tmp_path.glob("*.png")
    with Image.open(file) as picture:
        own = json.loads((model / "model_index.json").read_text())["scheduler"][1]
        assert picture.text["sampler"] == OWN[own]
        calls = (3, 2) if own == "PNDMScheduler" else (2, 2)  # which warms up by a second one in the first step
        assert float(picture.text["denoiser_evaluations"]) == 2 * calls[0] + calls[1]


# One of each family: what the others differ in is read by every command alike, and SD and SDXL differ in little.
@pytest.mark.parametrize("model", ["pixart", "sd35", "sdxl"], indirect=True)
@pytest.mark.usefixtures("sketched")
def test_a_study(model, clip, prompts, tmp_path):
    words = ["--model", model, "--clip", clip, "--prompts-file", prompts, "--out", tmp_path]
    run("study", "f6", "--steps", 10, "--prompts", 2, *words)
    assert json.loads((tmp_path / "f6" / "finding.json").read_text())["claims"]
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("model", ["pixart", "sd15", "sd35"], indirect=True)
def test_tune(model, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "SAVINGS", (0.4,))  # one candidate of each kind says as much of a model as six
    monkeypatch.setattr(candidates, "FEWER", (0.5,))
    monkeypatch.setattr(candidates, "PAPERS", (0.4,))
    monkeypatch.setattr(search, "PROBE_ROUNDS", 1)
    monkeypatch.setattr(search, "PROBE_STEPS", 4)
    monkeypatch.setattr(commands_tune, "MOST", 4)  # of the 32 prompts
    out = tmp_path / "policy.json"
    said = run("tune", "--model", model, "--steps", 10, "--prompts", prompts, "--max-l1", 0.9, "--out", out).stderr
    reads_more = any(name in (model / "model_index.json").read_text() for name in ("PixArt", "StableDiffusion3"))
    assert ("1 of 8 prompts are too long" in said) != reads_more
    words = ["--model", model, "--steps", json.loads(out.read_text())["steps"], "--policy", out, "--out", tmp_path]
    run("generate", "a red cat", *words)
