"""Names and folders become pipelines, or one clear sentence."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import time
import warnings

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, PNDMScheduler
from naive import error
from safetensors.torch import load_file, save_file
from test_guidance import generate

from shapefirst.errors import ModelError, ShapefirstError, UnsupportedPipelineError
from shapefirst.models import MODELS, SAMPLERS, load, loader, locate, make_sampler
from shapefirst.models.catalogue import sampler_name
from shapefirst.policies.file import sampler_digest


@pytest.fixture(scope="session")
def saved(_built, tmp_path_factory):
    """A saved Stable Diffusion folder. Tests that damage it work on a copy."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    _built["sd-epsilon"].save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "damaged")


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_a_local_folder_loads_and_gives_the_same_images(make_pipe, tmp_path, kind):
    make_pipe(kind).save_pretrained(tmp_path)
    pipe = load(tmp_path, device="cpu")
    assert type(pipe) is type(make_pipe(kind))
    # The loaded U-Net is laid out channels-last and sums in another order.
    assert error(generate(pipe), generate(make_pipe(kind))) < 1e-5


def test_on_a_cpu_the_u_net_is_channels_last(saved):
    pipe = load(saved, device="cpu")
    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_keep_the_model_s_own_noise(saved, sampler):
    pipe = load(saved, sampler=sampler, device="cpu")
    assert type(pipe.scheduler).__name__ == SAMPLERS[sampler].class_name
    assert pipe.scheduler.order == SAMPLERS[sampler].order
    assert pipe.scheduler.config.beta_end == 0.004
    assert pipe.scheduler.config.get("clip_sample", False) is False
    assert make_sampler("ddim", pipe.scheduler.config).config.prediction_type == "epsilon"


@pytest.mark.parametrize("flow", [False, True])
def test_a_sampler_is_what_its_name_says_whatever_was_there_before(flow):
    model = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0} if flow else {"beta_end": 0.004}
    for before in ("ddim", "dpm-solver-karras", "deis", "euler"):
        if flow and SAMPLERS[before].flow_class is None:
            continue
        config = make_sampler(before, model).config
        for name in SAMPLERS:
            if not flow or SAMPLERS[name].flow_class is not None:
                made = make_sampler(name, config)
                assert sampler_name(made) == name
                assert bool(made.config.get("use_karras_sigmas")) is name.endswith("karras") or name in ("ddim", "heun")
                assert sampler_digest(made) == sampler_digest(make_sampler(name, model))


def test_dpm_solver_karras_is_what_most_people_set(saved):
    pipe = load(saved, sampler="dpm-solver-karras", device="cpu")
    usual = load(saved, device="cpu").scheduler.config
    usual = DPMSolverMultistepScheduler.from_config(usual, use_karras_sigmas=True)
    assert sampler_digest(pipe.scheduler) == sampler_digest(usual)
    for scheduler in (pipe.scheduler, usual):
        scheduler.set_timesteps(25)
    assert torch.equal(pipe.scheduler.sigmas, usual.sigmas)


def test_the_scheduler_that_a_model_came_with(damaged):
    pipe = load(damaged, device="cpu")
    pndm = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    pndm.save_pretrained(damaged / "scheduler")
    index = json.loads((damaged / "model_index.json").read_text())
    (damaged / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "PNDMScheduler"]}))
    own, state = load(damaged, sampler="own", device="cpu").scheduler, torch.get_rng_state()
    assert type(own) is PNDMScheduler
    assert sampler_digest(own) == sampler_digest(pndm)
    assert sampler_name(own) == "own (PNDMScheduler)"
    assert type(load(damaged, device="cpu").scheduler).__name__ == "DDIMScheduler"
    EulerAncestralDiscreteScheduler.from_config(pndm.config).save_pretrained(damaged / "scheduler")
    named = ["diffusers", "EulerAncestralDiscreteScheduler"]
    (damaged / "model_index.json").write_text(json.dumps({**index, "scheduler": named}))
    assert sampler_name(load(damaged, sampler="own", device="cpu").scheduler).startswith("own (EulerAnc")
    assert torch.equal(torch.get_rng_state(), state)
    config = damaged / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "trained_betas": [1.0] * 1000}))
    assert "came with, EulerAncestral" in (said := refusal(damaged, sampler="own", device="cpu"))
    assert "name another one, such as ddim" in said


def test_weights_in_half_precision_are_loaded_as_asked(make_pipe, tmp_path):
    copy.deepcopy(make_pipe()).to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert load(tmp_path, device="cpu").unet.dtype == torch.float32
    assert load(tmp_path, device="cpu", dtype=torch.bfloat16).unet.dtype == torch.bfloat16


def test_no_safety_checker(damaged):
    index = json.loads((damaged / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["requires_safety_checker"] = True
    (damaged / "model_index.json").write_text(json.dumps(index))
    assert load(damaged, device="cpu").safety_checker is None


def test_loading_is_quiet_and_leaves_settings_alone(saved, capfd):
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    def settings():
        rooms = (diffusers_logging, transformers_logging)
        return [(room.get_verbosity(), room.is_progress_bar_enabled()) for room in rooms], warnings.filters[:]

    diffusers_logging.set_verbosity(logging.INFO)
    try:
        before = settings()
        load(saved, device="cpu")
        assert settings() == before
    finally:
        diffusers_logging.set_verbosity_error()
    assert capfd.readouterr() == ("", "")


# --- refusals -------------------------------------------------------------------------------------------------------


def refusal(name, **options):
    """The one sentence that `load` refuses with."""
    start = time.process_time()
    with pytest.raises(ShapefirstError) as caught:
        load(name, **options)
    assert time.process_time() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "`."))
    return message


def test_unknown_names():
    message = refusal("pockett")
    assert all(name in message for name in ("pockett", *MODELS))
    assert "sampler 'dim'; there are own, ddim, dpm-solver" in refusal("pocket", sampler="dim")
    assert "no device 'abacus'" in refusal("pocket", device="abacus")


def test_a_hub_model_that_cannot_be_had(empty_cache):
    for name in ("sd15", "someone/something"):
        message = refusal(name)
        hub_id = MODELS[name].source if name in MODELS else name
        assert all(part in message for part in (name, hub_id, str(empty_cache), f"`hf download {hub_id}`"))
        assert locate(name) is None


def test_a_hub_model_in_the_cache(saved, empty_cache):
    repository = empty_cache / "models--someone--something"
    snapshot = shutil.copytree(saved, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert locate("someone/something") == snapshot
    assert load("someone/something", device="cpu").unet is not None
    shutil.rmtree(snapshot / "unet")  # half a download does not count
    assert locate("someone/something") is None
    assert "hf download someone/something" in refusal("someone/something")


def test_pocket_without_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(loader, "embedded_folder", lambda name: tmp_path / "weights")
    assert locate("pocket") is None
    assert "shapefirst train-pocket" in refusal("pocket")


def test_folders_that_are_no_model(damaged, tmp_path):
    assert "no model_index.json" in refusal(tmp_path)
    assert "no model" in refusal(tmp_path / "absent")
    weights = damaged / "unet" / "diffusion_pytorch_model.safetensors"
    assert "one network of a diffusers folder, no whole model" in refusal(weights)
    (damaged / "model_index.json").write_text("{")
    assert "model_index.json is corrupt" in refusal(damaged)


def test_pickled_weights_are_refused(damaged):
    weights = damaged / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    message = refusal(damaged)
    assert str(weights.with_suffix(".bin")) in message
    assert "pickled" in message


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_corrupt_weights_name_their_file(damaged, part, damage):
    file = damaged / f"{part}.safetensors"
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"\x00garbage" * 99, "empty": b""}[damage])
    assert refusal(damaged) == f"{file} is corrupt or truncated: delete it and get it again."


def test_missing_weights_and_broken_configurations(damaged):
    config = damaged / "unet" / "config.json"
    text = config.read_text()
    for broken in ("{ not json", "[]"):
        config.write_text(broken)
        assert f"{config} is corrupt" in refusal(damaged)
    config.write_text(text)
    (damaged / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "unet is missing or has no weights" in refusal(damaged)
    shutil.rmtree(damaged / "vae")
    assert "is incomplete" in refusal(damaged)


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_weights_that_lack_a_tensor_are_refused(make_pipe, tmp_path, kind):
    make_pipe(kind).save_pretrained(tmp_path)
    for part in ("unet", "transformer", "vae", "text_encoder"):
        for file in (tmp_path / part).glob("*.safetensors"):
            whole = load_file(file)
            save_file({key: value for key, value in whole.items() if key != min(whole)}, file, {"format": "pt"})
            assert f"{tmp_path / part} lacks 1 of its weights" in refusal(tmp_path, device="cpu")
            save_file(whole, file, {"format": "pt"})
    assert load(tmp_path, device="cpu") is not None


def test_weights_of_another_shape_are_refused(damaged):
    file = damaged / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({key: torch.cat([value, value]) for key, value in load_file(file).items()}, file, {"format": "pt"})
    message = refusal(damaged, device="cpu")
    assert f"{damaged} cannot be loaded" in message
    assert "size mismatch for" in message or "expected shape" in message  # without accelerate, or with it


def test_broken_tokenizers_name_their_file(damaged):
    file = damaged / "tokenizer" / "tokenizer.json"
    file.write_text("{ not json")
    assert f"{file} is corrupt" in refusal(damaged)
    file.write_text("{}")
    assert f"{damaged} cannot be loaded" in refusal(damaged)


def test_a_tokenizer_without_words_is_refused(damaged):
    for file in ("tokenizer.json", "vocab.json", "merges.txt"):
        (damaged / "tokenizer" / file).unlink(missing_ok=True)
    assert f"{damaged / 'tokenizer'} has no vocabulary" in refusal(damaged)


def test_a_tokenizer_that_does_not_tell_its_limit_gets_the_text_encoder_s(damaged):
    """As transformers did by itself before 5; without it not one prompt could be cut or padded."""
    file = damaged / "tokenizer" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["model_max_length"]
    file.write_text(json.dumps(config))
    pipe = load(damaged, device="cpu")
    assert pipe.tokenizer.model_max_length == 77
    assert generate(pipe) is not None


@pytest.mark.parametrize("name", ["StableDiffusionInstructPix2PixPipeline", "DDPMPipeline"])
def test_unsupported_pipelines(damaged, name):
    index = json.loads((damaged / "model_index.json").read_text())
    (damaged / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
    with pytest.raises(UnsupportedPipelineError, match=name):
        load(damaged, device="cpu")


def test_a_class_that_diffusers_has_not_got(damaged):
    index = json.loads((damaged / "model_index.json").read_text())
    (damaged / "model_index.json").write_text(json.dumps({**index, "_class_name": "NoSuchPipeline"}))
    with pytest.raises(ModelError, match="is a NoSuchPipeline"):
        load(damaged, device="cpu")
