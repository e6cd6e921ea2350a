"""Folders of models that lie, or that would run code of their own: one sentence, or a picture."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scorers
from commands import one_sentence, shapefirst
from fuzz.folders import LAID_OUT, laid_out, lying_folders
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import refusal

from shapefirst.errors import ModelError, ShapefirstError
from shapefirst.images.jobs import Sampling, generate, make_jobs
from shapefirst.measure.clip import load_clip
from shapefirst.measure.inception import load_inception
from shapefirst.measure.vlm import load_vlm
from shapefirst.measure.vqa import load_vqa
from shapefirst.models import load
from shapefirst.models.configurations import check_entries
from shapefirst.models.fingerprint import fingerprint
from shapefirst.models.scoring import find_scorer
from shapefirst.policies.schedule import TextSchedule

LOADERS = {"clip": load_clip, "vilt": load_vqa, "llava": load_vlm}


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """Name -> a folder that holds what is read of it and nothing else."""
    place = tmp_path_factory.mktemp("wholes")
    found = {name: laid_out(name, place / name) for name in LAID_OUT}
    for name in LOADERS:
        (place / name).mkdir()
        found[name] = getattr(scorers, f"{name}_folder")(place / name)
    load(found["dreamshaper"], device="cpu")  # what is imported once is no time that a refusal takes
    return found


@pytest.fixture
def copy(wholes, tmp_path):
    return lambda name: shutil.copytree(wholes[name], tmp_path / name, copy_function=os.link)


def change(file, **entries):
    content = json.loads(file.read_text())
    file.unlink()  # which is a link
    file.write_text(json.dumps({**content, **entries}))


def said_of(name, folder):
    with pytest.raises(ModelError) as caught:
        LOADERS[name](folder, device="cpu")
    return str(caught.value)


# --- code -----------------------------------------------------------------------------------------------------------

MAP = dict.fromkeys(
    ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoModelForImageTextToText"),
    "evil.Evil",
)


@pytest.fixture
def canary(monkeypatch, tmp_path):
    """A function that puts a module into a folder; at the end of the test it must not have run, nor been asked for."""
    song = tmp_path / "ran"

    def put(folder, name="evil.py"):
        (folder / name).write_text(f"open({str(song)!r}, 'w').write('it ran')\nraise SystemExit\n")

    yes = io.StringIO("y\n" * 100)
    monkeypatch.setattr(sys, "stdin", yes)
    yield put
    assert not song.exists()
    assert yes.tell() == 0, "somebody was asked"


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae", "scheduler", "tokenizer"])
def test_no_part_of_a_pipeline_runs_code(copy, canary, part):
    folder = copy("dreamshaper")
    (file,) = (folder / part).glob("*config.json")
    change(file, auto_map=MAP)
    canary(folder / part)
    assert refusal(folder, device="cpu").startswith(f"{file} asks for code of the model's own (auto_map)")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"_class_name": ["evil", "Evil"]}, "names a pipeline of the model's own"),
        ({"custom_pipeline": "evil"}, "asks for code of the model's own (custom_pipeline)"),
        ({"unet": ["evil", "Evil"]}, "evil.py is code of the model's own"),
        ({"scheduler": ["evil", "Evil"]}, "evil.py is code of the model's own"),
        ({"extra": ["evil", "Evil"]}, "evil.py is code of the model's own"),
    ],
)
def test_no_index_names_code(copy, canary, entry, said):
    folder = copy("dreamshaper")
    (folder / "extra").mkdir()
    for part in (".", "unet", "scheduler", "extra"):
        canary(folder / part)
    change(folder / "model_index.json", **entry)
    assert said in refusal(folder, device="cpu")


@pytest.mark.parametrize(
    ("name", "file", "entry"),
    [
        ("clip", "config.json", {"auto_map": MAP}),
        ("clip", "tokenizer_config.json", {"auto_map": MAP, "tokenizer_class": "Evil"}),
        ("clip", "preprocessor_config.json", {"auto_map": MAP, "image_processor_type": "Evil"}),
        ("clip", "config.json", {"attn_implementation": "somebody/kernels"}),
        ("vilt", "config.json", {"auto_map": MAP, "model_type": "evil"}),
        ("vilt", "processor_config.json", {"auto_map": MAP}),
        ("llava", "config.json", {"text_config": {"auto_map": MAP}}),
        ("llava", "generation_config.json", {"auto_map": MAP}),
    ],
)
def test_no_scoring_model_runs_code(copy, canary, name, file, entry):
    folder = copy(name)
    canary(folder)
    change(folder / file, **entry)
    assert said_of(name, folder).startswith(f"{folder / file} asks for code of the model's own")


# --- lies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 7, None, 1_000_000, "64", [64], [0, 64], float("nan")])
def test_a_size_of_no_picture_is_refused(copy, value):
    folder = copy("dreamshaper")
    change(folder / "unet" / "config.json", sample_size=value)
    assert "sample_size" in refusal(folder, device="cpu")


@pytest.mark.parametrize(
    ("part", "entry", "said"),
    [
        ("text_encoder", {"num_hidden_layers": 100_000}, "larger network"),
        ("text_encoder", {"vocab_size": 10**9}, "larger network"),
        ("text_encoder", {"num_attention_heads": -1}, "cannot read what its tokenizer gives"),
        ("unet", {"layers_per_block": 100_000}, "larger network"),
        ("unet", {"transformer_layers_per_block": 100_000}, "larger network"),
        ("unet", {"attention_head_dim": 0}, "attention_head_dim, which must be above 0"),
        ("unet", {"block_out_channels": []}, "cannot be loaded"),
        ("vae", {"block_out_channels": [10**6] * 4}, "larger network"),
        ("vae", {"scaling_factor": None}, "says None of scaling_factor, which must be float"),
        ("vae", {"scaling_factor": "x"}, "says 'x' of scaling_factor, which must be float"),
        ("vae", {"norm_num_groups": -1}, "must be above 0"),
        ("scheduler", {"num_train_timesteps": 10**8}, "must be at most 100,000"),
        ("scheduler", {"prediction_type": "odd"}, "must be one of"),
        ("scheduler", {"beta_end": float("nan")}, "must be at most"),
        ("scheduler", {"trained_betas": [float("nan")] * 1000}, "must be at most"),
        ("tokenizer", {"model_max_length": 1.5}, "model_max_length"),
        ("tokenizer", {"model_max_length": 78}, "from 3 to 77"),
    ],
)
def test_a_lie_is_named(copy, part, entry, said):
    folder = copy("dreamshaper")
    (file,) = (folder / part).glob("*config.json")
    change(file, **entry)
    assert said in refusal(folder, device="cpu")


def test_a_size_in_a_scoring_model_is_held_against_its_weights(copy):
    folder = copy("clip")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder / "config.json", text_config={**text, "num_hidden_layers": 100_000})
    assert "larger network" in said_of("clip", folder)
    change(folder / "config.json", text_config=text)
    change(folder / "preprocessor_config.json", size={"shortest_edge": 10**8})
    assert "says 1e+08 of shortest_edge" in said_of("clip", folder)


class Declared:
    def __init__(self, size: int = 4, share: float = 0.5, name: str | None = None, on: bool = False) -> None:
        """A class as diffusers has them."""


JUST = st.fixed_dictionaries(
    {},
    optional={
        "size": st.integers(1, 10**6),
        "share": st.floats(1e-9, 1e6) | st.integers(1, 9),
        "name": st.text() | st.none(),
        "on": st.booleans() | st.none(),
        "unknown": st.integers(),
    },
)
UNJUST = {
    "size": st.integers(max_value=0) | st.text() | st.none() | st.lists(st.integers()) | st.just(1.5),
    "share": st.just(float("nan")) | st.just(float("inf")) | st.text() | st.none(),
    "name": st.integers() | st.lists(st.text()),
    "on": st.text() | st.lists(st.booleans()),
}


@given(entries=JUST, wrong=st.sampled_from(sorted(UNJUST)), data=st.data())
@settings(max_examples=30, deadline=None)
def test_entries_are_what_their_class_declares(entries, wrong, data):
    check_entries(Declared, entries, "file")
    with pytest.raises(ModelError, match=rf"file says .* of {wrong}, which must be"):
        check_entries(Declared, {**entries, wrong: data.draw(UNJUST[wrong])}, "file")


@pytest.mark.parametrize(("name", "count"), [("dreamshaper", 3), ("sd35", 1), ("clip", 3), ("vilt", 2), ("llava", 2)])
def test_whatever_a_folder_says_it_works_or_is_refused(wholes, tmp_path, name, count):
    """`make fuzz` tries thousands of these."""
    said = []
    for what, folder in lying_folders(wholes[name], tmp_path / "copy", count=count, seed=18):
        start = time.process_time()
        try:
            if name in LOADERS:
                LOADERS[name](folder, device="cpu")
            else:
                pipe = load(folder, device="cpu")
                pipe.set_progress_bar_config(disable=True)
                jobs, policy = make_jobs(["a red cat"], 1, 0), {"": TextSchedule.until(1)}
                generate(pipe, jobs, policy, Sampling(4.0, 2))
        except ShapefirstError as error:
            said.append(str(error))
        assert time.process_time() - start < 10, what
    assert not any("\n" in sentence or len(sentence) > 800 for sentence in said)


# --- what is no file ------------------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_not_opened(copy, tmp_path):
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    assert "is neither a folder nor a file" in refusal(pipe)
    folder = copy("dreamshaper")
    before = fingerprint(folder, {})
    os.mkfifo(folder / "unet" / "another.safetensors")
    assert fingerprint(folder, {}) == before
    for name, make in (("config.json", os.mkfifo), ("diffusion_pytorch_model.safetensors", Path.mkdir)):
        (folder / "unet" / name).rename(tmp_path / name)
        make(folder / "unet" / name)
        assert "is incomplete: unet" in refusal(folder)
        (os.unlink if make is os.mkfifo else Path.rmdir)(folder / "unet" / name)
        (tmp_path / name).rename(folder / "unet" / name)
    clip = copy("clip")
    (clip / "model.safetensors").unlink()
    os.mkfifo(clip / "model.safetensors")
    assert "lacks weights" in said_of("clip", clip)
    with pytest.raises(ModelError, match="no Inception weights"):
        load_inception(pipe)


@pytest.mark.parametrize("name", ["~nobody-here/x", "\0", "x" * 5000])
def test_places_that_there_are_not(empty_cache, name):
    assert re.search("There is no model|of at most 4096 characters", refusal(name))
    with pytest.raises(ModelError, match="There is no model"):
        find_scorer(name)
    with pytest.raises(ModelError, match="no Inception weights"):
        load_inception(name)


def test_what_other_systems_leave_does_not_count(copy):
    folder, clip = copy("dreamshaper"), copy("clip")
    for place in (folder, clip, *(part for part in folder.iterdir() if part.is_dir())):
        for name in ("._config.json", "._model.safetensors", "._tokenizer_config.json", ".DS_Store"):
            (place / name).write_bytes(b"\0\5\x16\7")
    assert load(folder, device="cpu") is not None
    assert np.isfinite(load_clip(clip, device="cpu").of_texts(["a"]).numpy()).all()


# --- what falls in the middle of a call ------------------------------------------------------------------------------


def test_a_model_that_stops_its_own_pipeline_is_named(copy, tmp_path):
    """An SD 3 without a shift, which diffusers adds unseen."""
    folder = copy("sd35")
    change(folder / "vae" / "config.json", shift_factor=None)
    result = shapefirst("generate", "a red cat", "--steps", "2", "--model", folder, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"Error: {folder} was loaded, but cannot make pictures: diffusers stopped with TypeError: " in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_our_own_fault_stays_what_it_is(copy, monkeypatch):
    pipe = load(copy("dreamshaper"), device="cpu")
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr("shapefirst.guidance.follow.Follower.wanted", lambda *_: len(None))
    with pytest.raises(TypeError, match="has no len"):
        generate(pipe, make_jobs(["a red cat"], 1, 0), {"": TextSchedule.until(1)}, Sampling(4.0, 2))


@pytest.mark.parametrize("content", ["1", "[]", "null", '"x"'])
def test_a_configuration_that_is_no_object_is_refused_before_a_model_is_loaded(copy, content):
    folder = copy("dreamshaper")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    (folder / "scheduler" / "scheduler_config.json").write_text(content)
    for command in (("generate", "a cat"), ("sweep", "plan", "--no-probe", "--count", "2")):
        assert "scheduler_config.json is corrupt" in one_sentence(shapefirst(*command, "--model", folder))
