"""The commands: what they write and print; bad input gets one sentence and exit code 2, and leaves nothing behind."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import one_sentence, shapefirst
from diffusers import DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

from shapefirst.__main__ import main
from shapefirst.checks import BOUNDS
from shapefirst.errors import ShapefirstError
from shapefirst.images import jobs
from shapefirst.models import MODELS, is_pocket, load, loader
from shapefirst.models.machine import find_device
from shapefirst.policies.file import PolicyFile, model_digest, sampler_digest, write_policy
from shapefirst.prompts import read_prompts


@pytest.fixture
def folder(make_pipe, tmp_path):
    """A diffusers folder of a tiny model."""
    make_pipe().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def pocket(folder, monkeypatch):
    """A tiny model in the place of the embedded one."""
    monkeypatch.setattr(loader, "embedded_folder", lambda name: folder)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "images"


def test_generate_writes_one_png_an_image_with_its_settings(folder, out):
    result = shapefirst(
        *("generate", "a red cat", "a dog", "--model", folder, "--out", out, "--num-images", 2, "--seed", 5),
        *("--steps", 4, "--text-steps", 1, "--guidance-scale", 3, "--negative-prompt", "rain"),
    )
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in out.iterdir()) == [
        "a-dog_seed5_text1of4.png",
        "a-dog_seed6_text1of4.png",
        "a-red-cat_seed5_text1of4.png",
        "a-red-cat_seed6_text1of4.png",
    ]
    settings = Image.open(out / "a-red-cat_seed6_text1of4.png").text
    assert float(settings.pop("seconds")) > 0
    assert settings.pop("Software").startswith("shapefirst ")
    assert settings == {
        "prompt": "a red cat",
        "negative_prompt": "rain",
        "seed": "6",
        "model": str(folder),
        "sampler": "ddim",
        "num_inference_steps": "4",
        "guidance_scale": "3",
        "text_steps": "1",
        "keep": "null",
        "device": find_device().type,
        "denoiser_evaluations": "5",
    }
    assert str(out / "a-dog_seed5_text1of4.png") in result.stdout
    assert "\t5\t" in result.stdout


def test_compare_adds_the_full_image_the_difference_and_a_sheet(folder, out):
    result = shapefirst(
        "generate", "a red cat", "--model", folder, "--out", out, "--steps", 4, "--text-steps", 2, "--compare"
    )
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in out.iterdir()) == [
        "a-red-cat_seed0_full.png",
        "a-red-cat_seed0_text2of4.png",
        "a-red-cat_seed0_text2of4_difference.png",
        "comparison_text2of4.png",
    ]
    assert Image.open(out / "a-red-cat_seed0_full.png").text["denoiser_evaluations"] == "8"
    assert Image.open(out / "a-red-cat_seed0_full.png").text["text_steps"] == "4"
    assert Image.open(out / "comparison_text2of4.png").width > 3 * 160
    assert "L1 and PSNR are to 4 steps of ddim, fully guided." in result.stdout
    assert str(out / "comparison_text2of4.png") in result.stdout


def test_without_options_the_stock_pipeline_samples(make_pipe, folder, out):
    assert shapefirst("generate", "a cat", "--model", folder, "--out", out, "--steps", 4).exit_code == 0
    (file,) = out.iterdir()
    assert file.name == "a-cat_seed0_full.png"
    assert Image.open(file).text["denoiser_evaluations"] == "8"
    pipe = load(folder, device="cpu")
    stock = pipe(["a cat"], num_inference_steps=4, generator=[torch.Generator().manual_seed(0)]).images[0]
    assert np.array_equal(np.array(stock), np.array(Image.open(file)))
    assert "add one, such as --budget 0.75" in one_sentence(shapefirst("generate", "a cat", "--compare", "--out", out))


@pytest.mark.parametrize(
    ("options", "name", "evaluations"),
    [
        (("--text-fraction", "0.25"), "text1of4", 5),
        (("--text-fraction", "25%"), "text1of4", 5),
        (("--text-steps", "50%", "--keep", "text"), "text2of4-keep-text", 6),
    ],
)
def test_the_papers_rule_is_asked_for(folder, out, options, name, evaluations):
    command = ("generate", "a cat", "--model", folder, "--out", out, "--steps", 4)
    assert shapefirst(*command, *options).exit_code == 0
    (file,) = out.iterdir()
    assert file.name == f"a-cat_seed0_{name}.png"
    assert Image.open(file).text["denoiser_evaluations"] == str(evaluations)


def test_a_budget_and_a_tolerance_have_options_of_their_own(folder, out):
    command = ("generate", "a cat", "--model", folder, "--out", out, "--steps", 10)
    for options in (("--budget", "0.6"), ("--budget", "60%"), ("--policy", "budget:60%"), ("--tol", "0.01")):
        result = shapefirst(*command, *options)
        assert result.exit_code == 0, result.output
    names = ["budget-0-6-of10", "budget-60-of10", "tol-0-01-of10"]
    assert sorted(file.name for file in out.iterdir()) == [f"a-cat_seed0_{name}.png" for name in names]
    assert Image.open(out / "a-cat_seed0_budget-0-6-of10.png").text["denoiser_evaluations"] == "12"


def test_images_have_the_size_that_is_asked_for_and_come_in_batches(folder, out, monkeypatch):
    sizes = []
    sample = jobs._sample
    monkeypatch.setattr(
        jobs, "_sample", lambda pipe, batch, *rest: sizes.append(len(batch)) or sample(pipe, batch, *rest)
    )
    command = ("generate", "a cat", "--num-images", 3, "--steps", 1, "--model", folder, "--out", out)
    result = shapefirst(*command, "--height", 32, "--width", 48, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert sizes == [2, 1]
    image = Image.open(out / "a-cat_seed2_full.png")
    assert (image.size, image.text["height"], image.text["width"]) == ((48, 32), "32", "48")
    for side, size in (("--height", (16, 32)), ("--width", (32, 16))):
        assert shapefirst(*command[:-1], out / side, "--num-images", 1, side, 32).exit_code == 0
        image = Image.open(out / side / "a-cat_seed0_full.png")
        assert image.size == size
        assert image.text[side.strip("-")] == "32"


def with_scheduler(folder, scheduler):
    """The folder, with another scheduler in it; and the stock pipeline's picture of it."""
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    named = {"scheduler": ["diffusers", type(scheduler).__name__]}
    (folder / "model_index.json").write_text(json.dumps({**index, **named}))
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    seed = torch.Generator().manual_seed(0)
    return pipe("a cat", num_inference_steps=5, guidance_scale=3, generator=[seed], output_type="np").images[0]


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        (DPMSolverMultistepScheduler(use_karras_sigmas=True, steps_offset=1), "dpm-solver-karras"),
        (PNDMScheduler(skip_prk_steps=True, steps_offset=1), "own (PNDMSchedul"),
    ],
)
def test_without_a_sampler_the_picture_is_the_stock_pipeline_s(folder, out, scheduler, name):
    stock = with_scheduler(folder, scheduler)
    command = ("generate", "a cat", "--steps", 5, "--guidance-scale", 3, "--model", folder, "--device", "cpu")
    for options in ((), ("--sampler", "own"), ("--sampler", "ddim")):
        result = shapefirst(*command, *options, "--out", out)
        assert result.exit_code == 0, result.output
    made = Image.open(out / "a-cat_seed0_full.png")
    assert made.text["sampler"].startswith(name)
    assert abs(np.asarray(made) / 255 - stock).max() < 0.01
    other = Image.open(out / "a-cat_seed0_full-2.png")
    assert other.text["sampler"] == "ddim"
    assert abs(np.asarray(other) / 255 - stock).max() > 0.01
    assert len(list(out.iterdir())) == 2


def test_a_tuned_policy_brings_its_sampler_along(folder, out, tmp_path):
    with_scheduler(folder, PNDMScheduler(skip_prk_steps=True, steps_offset=1))
    pipe, file = load(folder, sampler="dpm-solver-karras", device="cpu"), tmp_path / "policy.json"
    digests = model_digest(pipe), type(pipe.scheduler).__name__, sampler_digest(pipe.scheduler)
    write_policy(PolicyFile(str(folder), *digests, 3.0, 4, (0, 1, 3), "neither", 1), file)
    command = ("generate", "a cat", "--guidance-scale", 3, "--model", folder, "--policy", file, "--out", out)
    result = shapefirst(*command)
    assert result.exit_code == 0, result.output
    assert "Sampler dpm-solver-karras, which the policy was tuned with." in result.stdout
    assert Image.open(next(out.iterdir())).text["sampler"] == "dpm-solver-karras"
    refused = one_sentence(shapefirst(*command, "--sampler", "own"))
    assert "tuned with the sampler DPMSolverMultistepScheduler, not PNDMScheduler" in refused


def test_a_tuned_policy_of_fewer_steps_stands_beside_the_run_whose_place_it_takes(folder, out, tmp_path):
    pipe, file = load(folder, sampler="ddim", device="cpu"), tmp_path / "policy.json"
    digests = model_digest(pipe), type(pipe.scheduler).__name__, sampler_digest(pipe.scheduler)
    measured = {"full guidance at steps": 6}
    write_policy(PolicyFile(str(folder), *digests, 3.0, 4, (0, 1, 3), "neither", 1, measured=measured), file)
    command = ("generate", "a cat", "--model", folder, "--policy", file, "--out", out, "--compare")
    for said in ((), ("--steps", 4), ("--steps", 6)):  # its own, and those whose place it takes
        result = shapefirst("--json", *command, *said)
        assert result.exit_code == 0, result.output
        full, mine = json.loads(result.stdout)["rows"]
        assert (full["denoiser_evaluations"], mine["denoiser_evaluations"], mine["saved"]) == (12, 6, 0.5)
    assert "3 of 4 steps guided, extrapolated between\n##.#" in result.stderr
    texts = {path.stem: Image.open(path).text for path in out.glob("a-cat*.png")}
    assert texts["a-cat_seed0_full"]["num_inference_steps"] == "6"
    own = texts["a-cat_seed0_policy-of4"]
    assert (own["num_inference_steps"], own["guided"], own["sampler"]) == ("4", "##.#", "ddim")
    refused = one_sentence(shapefirst(*command, "--steps", 5))
    assert "takes the place of 6 steps, with 4 of its own, and not of 5" in refused
    assert "run `shapefirst tune --steps 5`." in refused


def test_a_lora_is_put_on_with_its_strength(folder, out, tmp_path):
    unet = load(folder, device="cpu").unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", unet_lora_layers=get_peft_model_state_dict(unet))
    (file,) = (tmp_path / "lora").iterdir()
    command = ("generate", "a cat", "--model", folder, "--steps", 2)
    pictures = {}
    for name, options in (("stock", ()), ("none", ("--lora", f"{file}=0")), ("full", ("--lora", file))):
        result = shapefirst(*command, *options, "--out", out / name)
        assert result.exit_code == 0, result.output
        pictures[name] = Image.open(out / name / "a-cat_seed0_full.png")
    assert np.array_equal(np.array(pictures["none"]), np.array(pictures["stock"]))
    assert not np.array_equal(np.array(pictures["full"]), np.array(pictures["stock"]))
    assert pictures["none"].text["lora"] == f"{file}=0"
    wrong = tmp_path / "wrong.safetensors"
    save_file({"transformer.x.lora_A.weight": torch.zeros(2, 2)}, wrong)
    for lora, said in (
        ("nonesuch.safetensors", "no LoRA 'nonesuch.safetensors'"),
        (f"{file}=x", "must be a number, not 'x'"),
        (__file__, "is no safetensors file"),
        (wrong, "for another model|cannot be put on"),
    ):
        assert re.search(said, one_sentence(shapefirst(*command, "--lora", lora, "--out", out / "wrong")))
    assert not (out / "wrong").exists()


def test_a_model_is_offloaded_where_there_is_a_card(folder, out, monkeypatch):
    command = ("generate", "a cat", "--model", folder, "--steps", 2, "--device", "cpu", "--out", out)
    for way in ("model", "sequential"):
        assert "here is none: leave it out" in one_sentence(shapefirst(*command, "--offload", way))
    moved = []
    monkeypatch.setattr("shapefirst.models.offloading.check_offload", lambda device: None)
    monkeypatch.setattr(
        StableDiffusionPipeline, "enable_model_cpu_offload", lambda pipe, device: moved.append(str(device))
    )
    assert shapefirst(*command, "--offload", "model").exit_code == 0
    assert moved == ["cpu"]
    assert Image.open(out / "a-cat_seed0_full.png").text["offload"] == "model"


def test_tables_are_json_where_that_is_asked_for_and_tabs_in_a_pipe(folder, out):
    command = ("generate", "a cat", "--model", folder, "--steps", 4, "--policy", "every:2", "--compare", "--out", out)
    result = shapefirst(*command, "--json")
    (line,) = result.stdout.splitlines()
    assert '"denoiser_evaluations": 8,' in line
    table = json.loads(line)
    assert table["table"] is None
    full, mine = table["rows"]
    assert (full["denoiser_evaluations"], mine["denoiser_evaluations"], mine["prompt"]) == (8, 4, "a cat")
    assert (full["l1"], mine["l1"] > 0, mine["file"]) == (None, True, str(out / "a-cat_seed0_every-2-of4.png"))
    assert [(row["policy"], row["saved"], row["seed"]) for row in (full, mine)] == [("full", 0, 0), ("every:2", 0.5, 0)]
    assert "Side by side" in result.stderr
    head, *rows = shapefirst(*command).stdout.splitlines()[2:4]
    assert (head.split("\t")[0], rows[0].split("\t")[0]) == ("prompt", "a cat")
    assert {row["name"] for row in json.loads(shapefirst("--json", "models").stdout)["rows"]} == set(MODELS)
    words = json.loads(shapefirst("models", "pocket", "--json").stdout)
    assert "umbrella" in words["nouns"]
    assert "never_seen_together_in_training" in words
    assert shapefirst("generate", "--out", out, "--steps", 1, "--model", folder, "--", "--json").exit_code == 0


def test_prompts_come_from_a_file_and_from_stdin(folder, out, tmp_path):
    (tmp_path / "prompts.txt").write_text("# two\na cat\n\na dog\n")
    common = ("--model", folder, "--out", out, "--steps", 1)
    assert shapefirst("generate", "--prompts-file", tmp_path / "prompts.txt", *common).exit_code == 0
    assert shapefirst("generate", "-", *common, text="a [red] car\n").exit_code == 0
    assert [file.name.split("_")[0] for file in sorted(out.iterdir())] == ["a-cat", "a-dog", "a-red-car"]


def test_images_of_one_run_never_overwrite_one_another(folder, out):
    assert shapefirst("generate", "A cat", "a cat!", "--model", folder, "--out", out, "--steps", 1).exit_code == 0
    assert len(list(out.iterdir())) == 2


def test_a_run_replaces_its_own_images_and_no_others(folder, out):
    command = ("generate", "a cat", "--model", folder, "--out", out, "--steps", 2, "--text-steps", 1, "--compare")
    names = ("a-cat_seed0_full", "a-cat_seed0_text1of2", "a-cat_seed0_text1of2_difference", "comparison_text1of2")
    for options, numbers in (((), ("",)), ((), ("",)), (("--guidance-scale", 3), ("", "-2"))):
        assert shapefirst(*command, *options).exit_code == 0
        assert sorted(file.name for file in out.iterdir()) == sorted(f"{a}{b}.png" for a in names for b in numbers)
    assert Image.open(out / "a-cat_seed0_full.png").text["guidance_scale"] == "7.5"
    assert Image.open(out / "a-cat_seed0_full-2.png").text["guidance_scale"] == "3"
    assert shapefirst(*command, "--keep", "text").exit_code == 0
    assert not (out / "a-cat_seed0_full-3.png").exists()
    (out / "a-dog_seed0_text1of2.png").write_text("mine")
    assert shapefirst(*command[:1], "a dog", *command[2:-1]).exit_code == 0
    assert (out / "a-dog_seed0_text1of2.png").read_text() == "mine"


def test_what_the_text_encoder_cuts_is_said(folder, out):
    prompt = "a" * 75 + " dog"
    result = shapefirst("generate", prompt, "--model", folder, "--out", out, "--steps", 1)
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: ")
    assert "cut off" in result.stderr
    assert "o" in result.stderr.split("cut off:")[1]


def test_without_guidance_there_is_nothing_to_save(folder, out):
    result = shapefirst(
        "generate", "a cat", "--model", folder, "--out", out, "--steps", 2, "--guidance-scale", 1, "--text-steps", 1
    )
    assert result.exit_code == 0
    (said,) = result.stderr.splitlines()
    assert said.startswith("Note: ")
    assert "no guidance runs, so there is no text branch to drop: give a larger one, or --budget 0.6" in said
    assert Image.open(next(out.iterdir())).text["denoiser_evaluations"] == "2"


def test_a_warning_is_one_line_without_its_source_and_comes_once(folder, out, monkeypatch):
    sample = jobs._sample

    def warned(*given):
        for line in ("1", "2"):
            exec(compile(f"import warnings\nwarnings.warn('of\\nsomething')  # {line}", line, "exec"))
        return sample(*given)

    monkeypatch.setattr(jobs, "_sample", warned)
    result = shapefirst("generate", "a cat", "a dog", "--model", folder, "--out", out, "--steps", 1, "--batch-size", 1)
    assert result.stderr.splitlines() == ["Warning: of something"]


@pytest.mark.usefixtures("pocket")
def test_words_that_pocket_never_saw_are_named(out):
    result = shapefirst("generate", "a red unicorn", "--out", out, "--steps", 1)
    assert result.exit_code == 0
    assert "'unicorn'" in result.stderr
    assert "models pocket" in result.stderr
    assert shapefirst("generate", "a red car", "--out", out, "--steps", 1).stderr == ""
    assert "no word" in shapefirst("generate", "?!", "--out", out, "--steps", 1).stderr


@pytest.mark.usefixtures("pocket")
def test_demo_writes_a_sheet_and_a_page_that_needs_nothing_else(out, monkeypatch):
    monkeypatch.setattr("shapefirst.images.demo.STEPS", 4)
    monkeypatch.setattr("shapefirst.images.demo.POLICIES", ("paper:2", "paper:1"))
    result = shapefirst("demo", "--out", out)
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in out.iterdir()) == ["index.html", "sheet.png"]
    assert str(out / "index.html") in result.stdout
    assert str(out / "sheet.png") in result.stdout
    page = (out / "index.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == page.count(' alt="a ') == 8 * 3
    assert "://" not in page
    assert "<script" not in page
    assert "25%" in result.stdout  # 6 of 8 evaluations


@pytest.mark.usefixtures("pocket")
def test_demo_shows_the_policies_that_are_asked_for(out, monkeypatch):
    monkeypatch.setattr("shapefirst.images.demo.STEPS", 6)
    result = shapefirst(
        "demo", "--out", out, "--policy", "every:2", "--policy", "tol:0.5", "--policy", "every:2,order=2"
    )
    assert result.exit_code == 0, result.output
    page = (out / "index.html").read_text()
    assert page.count(' alt="a ') == 8 * 4  # also where two are described alike
    assert "3 of 6 steps guided, extrapolated between" in page
    assert "tolerance 0.5, each image decides" in page


def test_generate_follows_a_policy_and_shows_it(folder, out):
    options = ("--model", folder, "--out", out, "--steps", 6)
    result = shapefirst("generate", "a cat", *options, "--policy", "every:3", "--compare")
    assert result.exit_code == 0, result.output
    assert "Policy every:3: 2 of 6 steps guided, extrapolated between\n#..#..\n" in result.stdout
    settings = Image.open(out / "a-cat_seed0_every-3-of6.png").text
    assert (settings["policy"], settings["guided"], settings["denoiser_evaluations"]) == ("every:3", "#..#..", "4")
    assert "text_steps" not in settings
    result = shapefirst("generate", "a cat", *options, "--policy", "tol:0.01")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("Warning: A tolerance of 0.01 let no step pass, so nothing was saved")
    assert (out / "a-cat_seed0_tol-0-01-of6.png").is_file()


def test_models_lists_names_sources_and_whether_they_are_there():
    result = shapefirst("models")
    assert result.exit_code == 0
    for name, info in MODELS.items():
        assert name in result.stdout
        assert (info.source or "this package") in result.stdout


def test_models_pocket_lists_its_words():
    words = shapefirst("models", "pocket").stdout
    for word in ("umbrella", "red", "fluffy", "on the left of"):
        assert word in words


@pytest.mark.usefixtures("pocket")
@pytest.mark.parametrize("name", ["pocket", "pocket-dit"])
def test_models_pocket_draws_a_sheet_of_its_words(tmp_path, monkeypatch, name):
    monkeypatch.setattr("shapefirst.images.gallery.STEPS", 1)
    assert shapefirst("models", name, "--sheet", tmp_path / "words.png").exit_code == 0
    assert Image.open(tmp_path / "words.png").width > 1000


def test_version_and_help_with_examples():
    assert shapefirst("--version").stdout.startswith("shapefirst ")
    for arguments in ((), ("generate",), ("models",), ("train-pocket",)):
        assert "Example" in shapefirst(*arguments, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no prompt"),
        (["  "], "Prompt 1 is empty"),
        (["a red car", "a r\udce9d car"], "Prompt 2 is not UTF-8 text: 'a r\\udce9d car'"),
        (["a cat", "--negative-prompt", "r\udce9d"], "--negative-prompt is not UTF-8 text: 'r\\udce9d'"),
        (["a cat", "--text-steps", "-1"], "--text-steps"),
        (["a cat", "--text-steps", "51"], "at most 50"),
        (["a cat", "--text-steps", "0,10"], "`shapefirst sweep` takes several"),
        (["a cat", "--keep", "text"], "give it with --text-steps"),
        (["a cat", "--budget", "60"], "did you mean --budget 0.6 or 60%"),
        (["a cat", "--budget", "0.6", "--tol", "0.01"], "not both --budget and --tol"),
        (["a cat", "--height", "100"], "multiple of 8 pixels, not 100: say 96"),
        (["a cat", "--width", "100000"], "--width must be at most 8,192"),
        (["a cat", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["a cat", "--text-steps", "5", "--text-fraction", "0.5"], "not both"),
        (["a cat", "--text-fraction", "1.5"], "--text-fraction must lie between 0 and 1"),
        (["a cat", "--text-fraction", "nan"], "--text-fraction must be a finite number"),
        (["a cat", "--steps", "0"], "--steps"),
        (["a cat", "--guidance-scale", "-1"], "guidance scale"),
        (["a cat", "--guidance-scale", "nan"], "guidance scale"),
        (["a cat", "--guidance-scale", "inf"], "guidance scale"),
        (["a cat", "--num-images", "0"], "number of images"),
        (["a cat", "--seed", "-1"], "seed"),
        (["a cat", "--model", "nonesuch"], "'nonesuch'"),
        (["a cat", "--sampler", "nonesuch"], "'nonesuch'"),
        (["a cat", "--device", "nonesuch"], "'nonesuch'"),
        (["a cat", "--policy", "nonesuch"], "no policy 'nonesuch'"),
        (["a cat", "--policy", "budget:0.6", "--text-steps", "5"], "not both --policy and --text-steps"),
        (["a cat", "--policy", "budget:0.6", "--policy", "full"], "one --policy"),
        (["a cat", "--policy", "budget:0.05"], "too few to extrapolate from: give 0.1 or more"),
        (["a cat", "--policy", "paper:60"], "guides the first 60 steps, but this generation has 50"),
        (["a cat", "--policy", "/nonesuch.json"], "no policy file '/nonesuch.json'"),
        (["--prompts-file", "/nonesuch.txt"], "/nonesuch.txt"),
        (["-"], "stdin"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(arguments, words, out):
    assert words in one_sentence(shapefirst("generate", *arguments, "--out", out))
    assert not out.exists()


@pytest.mark.parametrize("option", ["--text-steps", "--text-fraction", "--steps", "--guidance-scale", "--keep"])
def test_what_is_no_number_or_no_choice_is_refused(option, out):
    sentence = one_sentence(shapefirst("generate", "a cat", option, "many", "--out", out))
    assert option in sentence
    assert "'many'" in sentence
    assert not out.exists()


@pytest.mark.parametrize("words", [["--bogus"], ["bogus"], ["generate", "--bogus"], ["prompts", "bogus"]])
def test_unknown_commands_and_options_are_named(words):
    assert words[-1] in one_sentence(shapefirst(*words))


def test_a_command_that_is_nearly_one_is_guessed_and_a_remedy_is_never_cut(empty_cache):
    assert one_sentence(shapefirst("generat")) == "Error: No such command 'generat'. Did you mean 'generate'?\n"
    said = one_sentence(shapefirst("generate", "a cat", "--model", "sdxl"))
    assert said.endswith("`hf download stabilityai/stable-diffusion-xl-base-1.0`.\n")
    assert len(one_sentence(shapefirst("x" * 1000))) < 520


def test_without_a_command_there_is_help_and_the_exit_code_of_a_wrong_call():
    result = shapefirst()
    assert result.exit_code == 2
    assert "Usage" in result.stdout
    assert result.stderr == ""
    assert "pocket, compbench, coco or text" in one_sentence(shapefirst("prompts"))


@pytest.mark.parametrize("command", [["generate", "a cat"], ["demo"], ["train-pocket"]])
def test_an_unwritable_output_folder_is_refused_before_any_work(command, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "is not a folder" in one_sentence(shapefirst(*command, "--out", out))


def test_names_that_the_system_refuses_get_one_sentence(tmp_path):
    long = tmp_path / ("x" * 300)
    assert "xxx" in one_sentence(shapefirst("generate", "a cat", "--out", long / "out"))
    assert "xxx" in one_sentence(shapefirst("generate", "a cat", "--model", long))
    assert "xxx" in one_sentence(shapefirst("generate", "--prompts-file", long))
    assert "xxx" in one_sentence(shapefirst("prompts", "pocket", "--out", long))


def test_more_steps_than_the_model_was_trained_for_are_refused(folder, out):
    message = one_sentence(shapefirst("generate", "a cat", "--model", folder, "--out", out, "--steps", 1001))
    assert "from 1 to 1000" in message
    assert "1001" in message
    assert not out.exists()


def test_predictions_that_overflow_are_no_pictures(folder, out, monkeypatch):
    monkeypatch.setitem(BOUNDS, "guidance scale", (0, 1e30))
    command = ("generate", "a cat", "--model", folder, "--out", out, "--steps", 3, "--guidance-scale", "1e30")
    assert "overflowed" in one_sentence(shapefirst(*command))
    assert not out.exists()


def test_a_closed_stdin_is_said(monkeypatch, out):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ShapefirstError, match="stdin: it is closed"):
        read_prompts("-")


def test_a_full_disk_behind_stdout_gets_one_sentence():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "shapefirst", "models", "pocket"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "Error: Cannot read or write: No space left on device.\n"


def test_an_interrupted_import_ends_with_130(monkeypatch):
    class Interrupted:
        def find_spec(self, name, *_):
            if name == "shapefirst.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "shapefirst.cli.app")
    monkeypatch.setattr("sys.meta_path", [Interrupted()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130


def test_a_truncated_weight_file_is_refused(folder, out):
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert str(weights) in one_sentence(shapefirst("generate", "a cat", "--model", folder, "--out", out))
    assert not out.exists()


def test_a_missing_part_is_refused(folder, out):
    shutil.rmtree(folder / "vae")
    assert "vae" in one_sentence(shapefirst("generate", "a cat", "--model", folder, "--out", out))


@pytest.mark.parametrize(
    "layout",
    [
        "DDPMPipeline",  # no guidance
        "StableDiffusionInstructPix2PixPipeline",  # three branches
        "FluxPipeline",
        "NoSuchPipeline",
    ],
)
def test_a_pipeline_of_another_layout_is_refused(folder, out, layout):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": layout}))
    assert layout in one_sentence(shapefirst("generate", "a cat", "--model", folder, "--out", out))
    assert not out.exists()


def test_only_pocket_has_a_sheet_of_words_and_models_are_known_by_name(tmp_path):
    assert "--sheet" in one_sentence(shapefirst("models", "sd15", "--sheet", tmp_path / "a.png"))
    assert "'nonesuch'" in one_sentence(shapefirst("models", "nonesuch"))
    assert "folder" in one_sentence(shapefirst("models", "pocket", "--sheet", tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_exits_with_130_and_leaves_nothing(folder, out, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("shapefirst.images.jobs._sample", interrupted)
    result = shapefirst("generate", "a cat", "--model", folder, "--out", out)
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    assert not out.exists()


def test_training_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("shapefirst.cli.train.find_spec", lambda name: None)
    assert "'.[train]' in a clone" in one_sentence(shapefirst("train-pocket", "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_weights_that_train_pocket_made_are_known_as_pocket(folder, out):
    (folder / "judge").mkdir()
    (folder / "judge" / "config.json").write_text("{}")
    assert is_pocket(str(folder))
    result = shapefirst("generate", "a red unicorn", "--model", folder, "--out", out, "--steps", 1)
    assert "'unicorn'" in result.stderr
    assert Image.open(next(out.iterdir())).text["guidance_scale"] == "4"


def test_stdin_is_read_once_and_a_score_has_a_name_and_a_model(out):
    for call in (("generate", "-", "-"), ("generate", "-", "--prompts-file", "-")):
        assert "give '-' once" in one_sentence(shapefirst(*call, "--out", out, text="a red car\n"))
    for value in ("=", "=x", "brisque=", ""):
        said = one_sentence(shapefirst("study", "f4", "--quick", "--score", value, "--out", out))
        assert "does not say which score by which model" in said
    assert not out.exists()


def test_an_argument_is_named_as_it_is_typed_and_an_empty_place_is_refused(out, monkeypatch):
    said = one_sentence(shapefirst("tune", "--save-time", "nan", "--out", out))
    assert said == "Error: --save-time must be a finite number, not nan.\n"
    said = one_sentence(shapefirst("generate", "a red car", "--policy", "budget:nan", "--out", out))
    assert said.startswith("Error: budget must be a finite number")
    for call in (("generate", "a red car", "--out", ""), ("sweep", "run", "--out="), ("study", "f4", "--out", "")):
        assert "--out is given an empty value" in one_sentence(shapefirst(*call))
    monkeypatch.setattr(
        "shapefirst.cli.terminal.Console.print", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space"))
    )
    assert shapefirst("generate", "a red car", "--steps", "x", "--out", out).exit_code == 2
    assert not out.exists()
