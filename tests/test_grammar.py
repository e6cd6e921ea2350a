"""One grammar on the command line: lists of steps, shares in percent; and what stands around the commands."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time

import pytest
from commands import one_sentence, shapefirst
from huggingface_hub import constants

from shapefirst.errors import ModelError, ShapefirstError
from shapefirst.models import hub
from shapefirst.policies.words import text_steps_of


@pytest.mark.parametrize(
    ("text", "steps"),
    [("25", [25]), ("50%", [25]), ("0,10", [0, 10]), ("0:50:25", [0, 25, 50]), ("0, 50%,40:50:10", [0, 25, 40, 50])],
)
def test_numbers_of_text_steps(text, steps):
    assert text_steps_of(text, 50) == steps


@pytest.mark.parametrize("text", ["", ",", "0,", "x", "-1", "51", "101%", "5:4:1", "1.5", "0,51"])
def test_what_is_no_number_of_text_steps(text):
    with pytest.raises(ShapefirstError, match=r"say|give"):
        text_steps_of(text, 50)


def test_a_sweep_takes_a_list_of_steps_and_samples_nothing_for_a_plan(monkeypatch):
    monkeypatch.setattr("shapefirst.sweep.probe.probe", lambda *_: pytest.fail("it samples"))
    command = ("sweep", "plan", "--count", 2, "--text-steps")
    listed, apart = shapefirst(*command, "0,25"), shapefirst(*command, "0", "--text-steps", "25")
    assert listed.exit_code == 0, listed.output
    assert listed.stdout == apart.stdout
    assert "nothing was sampled; --probe" in listed.stderr


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (("tune", "--save-time", "40"), "did you mean --save-time 0.4 or 40%"),
        (("tune", "--save-time", "90%"), "0.9"),
        (("generate", "a cat", "--text-fraction", "50"), "did you mean --text-fraction 0.5 or 50%"),
        (("sweep", "plan", "--policy", "budget:60"), "did you mean budget:0.6 or 60%"),
    ],
)
def test_a_share_without_its_sign_is_answered_by_what_was_meant(command, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert meant in one_sentence(shapefirst(*command))
    assert not list(tmp_path.iterdir())


def test_the_help_has_exit_codes_completion_and_json():
    said = shapefirst("--help").stdout
    for words in ("Exit codes", "130", "--install-completion", "--json"):
        assert words in said


@pytest.mark.parametrize(
    ("words", "found"),
    [("shapefirst st", "study"), ("shapefirst generate --model sdx", "sdxl")],
    ids=["command", "model"],
)
def test_the_shell_completes(words, found):
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    env = {"_SHAPEFIRST_COMPLETE": "complete_bash", **typed}
    run = "import sys; sys.argv = ['shapefirst']; from shapefirst.__main__ import main; main()"
    command = ["env", *(f"{name}={value}" for name, value in env.items()), sys.executable, "-c", run]
    assert found in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()


@pytest.mark.parametrize("silent", ["name", "port"])
def test_that_nobody_answers_is_said_within_seconds(monkeypatch, silent):
    """A hub whose name is looked for without end, or whose port takes no connection."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub, "PATIENCE", 0.2)

    def connect(address, timeout):
        time.sleep(2 if silent == "name" else timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", connect)
    begun = time.monotonic()
    with pytest.raises(ModelError, match=r"could not be downloaded from the Hugging Face hub .*(no answer|timed out)"):
        hub.listing("some/model", "some/model")
    assert time.monotonic() - begun < 1.5


def test_a_package_that_is_missing_is_named_with_what_works():
    from shapefirst.errors import installing

    assert re.match(
        r"pip install .*'pyarrow>=[\d.]+'.*, or pip install '\.\[studies\]' in a clone$", installing("studies")
    )
