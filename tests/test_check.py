"""`shapefirst check` and docs/pipelines.md say of pipelines what `guide` does with them."""

from __future__ import annotations

import json

import diffusers
import modular
import pipelines_page
import pytest
from commands import one_sentence, shapefirst
from layouts import LAYOUTS
from tiny import PIPELINES

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families import FAMILIES, Family
from shapefirst.families.layout import controls_of, denoisers_of
from shapefirst.guidance.blocks import guide
from shapefirst.guidance.meeting import MODULAR, WHOLE, meeting_of
from shapefirst.models import MODELS
from shapefirst.policies.words import EXAMPLES, POLICIES


def said(name):
    """The lines of a check, by their first words."""
    result = shapefirst("check", name)
    assert result.exit_code == 0, result.stderr
    first, *lines = result.stdout.splitlines()
    rows = [line.split("\t", 1) for line in lines]
    return {"": first, **{label.strip(): text.strip() for label, text in rows}}


def refusal(name):
    return one_sentence(shapefirst("check", name)).removeprefix("Error: ").strip()


@pytest.fixture
def folder(tmp_path):
    """A function that writes a model's folder with a model_index.json alone."""

    def write(class_name, place=tmp_path / "model", **parts):
        place.mkdir(parents=True)
        (place / "model_index.json").write_text(json.dumps({"_class_name": class_name, **parts}))
        return place

    return write


def test_a_class_that_is_met_in_one_batch():
    lines = said("StableDiffusionXLControlNetPipeline")
    assert lines[""] == "StableDiffusionXLControlNetPipeline can be steered."
    assert lines["met"] == "in one batch: a call of the denoiser has the rows of every branch"
    assert lines["branches"] == "null, text, in this order"
    assert lines["policies"].startswith("all: paper:25, text:25, budget:0.6, ")
    assert lines["unguided"] == f"off or distilled, guidance leaves whole evaluations to skip: {', '.join(WHOLE)}"
    assert lines["skipped"] == "unet"
    assert lines["skipped with it"] == "controlnet, counted apart (evaluations.control_rows)"
    assert lines["not skipped"] == "vae, text_encoder, text_encoder_2, image_encoder"
    assert lines["tested"] == "in the matrix of docs/pipelines.md"


def test_a_class_that_is_met_in_two_calls():
    lines = said("FluxPipeline")
    assert lines["met"] == "in two calls: the denoiser is called once for each branch"
    assert lines["branches"] == "text, null, in this order"
    assert "skipped with it" not in lines


def test_a_class_that_is_met_by_whole_calls():
    lines = said("QwenImageEditPipeline")
    assert lines["met"].startswith("whole calls: ")
    assert lines["branches"].startswith("not known: ")
    assert lines["policies"] == f"those that keep no branch: {', '.join(WHOLE)}"
    assert [words.partition(":")[0] for words in WHOLE] == ["budget", "every", "growing", "steps", "tol"]
    assert "unguided" not in lines
    assert lines["tested"] == "no: met as any other class"
    assert said("FluxKontextPipeline")["tested"] == "in the matrix of docs/pipelines.md"


def test_a_modular_class_takes_a_guider_besides():
    assert said("StableDiffusionXLModularPipeline")["guider"].startswith('shapefirst.Guider("paper:25")')
    assert said("StableDiffusionXLModularPipeline")["tested"] == "with a Guider and within guide()"
    assert "guider" not in said("FluxModularPipeline")
    assert said("FluxModularPipeline")["tested"].startswith("no: ")


def test_the_modular_classes_that_are_called_tested_are(make_pipe):
    rows = (*modular.PIPELINES.values(), modular.wan_22, modular.helios)
    run = {type(row(make_pipe).pipe.blocks).__name__ for row in rows}
    assert run == {getattr(diffusers, name).default_blocks_name for name in MODULAR}


def test_a_model_has_the_parts_that_its_index_names(folder):
    transformer = ["diffusers", "WanTransformer3DModel"]
    text = {"tokenizer": ["transformers", "T5TokenizerFast"], "text_encoder": ["transformers", "UMT5EncoderModel"]}
    of_its_own = {"else": ["os", "PathLike"], "more": ["no.such", "Net"], "less": ["nothing", "Net"]}
    parts = {"vae": ["diffusers", "AutoencoderKLWan"], **text, **of_its_own, "transformer_2": [None, None]}
    lines = said(folder("WanPipeline", transformer=transformer, **parts))
    assert lines[""].endswith(" is a WanPipeline, which can be steered.")
    assert lines["skipped"] == "transformer"
    assert lines["not skipped"] == "vae, text_encoder"
    assert said("WanPipeline")["skipped"] == "transformer, transformer_2"
    assert said("pocket")["not skipped"] == "text_encoder, vae"


def test_a_model_of_the_hub_is_known_by_its_index_in_the_cache(folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    sentence = refusal("some/model")
    assert sentence.startswith(f"The model_index.json of some/model is not in the cache {tmp_path}: ")
    assert "`hf download some/model model_index.json`" in sentence
    place = tmp_path / "models--some--model" / "snapshots" / "abc"
    folder("FluxPipeline", place, transformer=["diffusers", "FluxTransformer2DModel"])
    assert said("some/model")["skipped"] == "transformer"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_with_a_name_is_known_without_a_download(empty_cache, name):
    assert said(name)[""] == f"{name} is a {MODELS[name].pipeline}, which can be steered."


def test_the_class_of_a_name_is_that_of_its_folder():
    """As far as the tests have a copy of the model's own index."""
    indices = {layout.repository: layout.index for layout in LAYOUTS.values()}
    known = {info.source: info.pipeline for info in MODELS.values() if info.source in indices}
    assert len(known) == sum(info.source is not None for info in MODELS.values())
    assert known == {source: indices[source]["_class_name"] for source in known}


def test_what_cannot_be_steered_ends_in_a_sentence():
    assert refusal("StableDiffusionSAGPipeline") == f"StableDiffusionSAGPipeline {_sag().refused}"
    assert refusal("FluxPriorReduxPipeline").startswith("FluxPriorReduxPipeline has no part that is given a timestep")


def _sag():
    return FAMILIES["StableDiffusionSAGPipeline"]


def test_what_does_not_exist_ends_in_a_sentence(folder, tmp_path, monkeypatch):
    version = diffusers.__version__
    near = refusal("StableDifusionXLPipeline")
    assert "which has" not in refusal("FooPipeline")
    assert near.startswith(f"There is no pipeline 'StableDifusionXLPipeline' in diffusers {version}, which has ")
    assert "StableDiffusionXLPipeline and" in near
    assert refusal("UNet2DConditionModel").startswith("There is no pipeline 'UNet2DConditionModel' ")
    assert "needs onnx" in refusal("OnnxStableDiffusionPipeline")
    monkeypatch.setitem(FAMILIES, "LaterPipeline", Family())
    assert refusal("LaterPipeline").startswith(f"The installed diffusers {version} has no LaterPipeline, ")
    place = folder("LaterPipeline")
    assert refusal(place) == f"{place} is a LaterPipeline, which diffusers {version} has not got."
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").endswith("is no diffusers pipeline: it has no model_index.json.")
    (tmp_path / "one.safetensors").touch()
    assert "is a single file" in refusal(tmp_path / "one.safetensors")


@pytest.mark.parametrize(
    "row",
    [
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetXSPipeline",
        "KandinskyV22CombinedPipeline",
        "WuerstchenDecoderPipeline",
        "UnCLIPPipeline",
        "WanPipeline with two transformers",
        "FluxKontextPipeline",
    ],
)
def test_what_is_said_of_a_class_is_so_of_its_pipelines(row):
    pipe = PIPELINES[row]().pipe
    found = meeting_of(type(pipe))
    assert set(found.denoisers) == set(denoisers_of(pipe))
    assert [getattr(pipe, name) for name in found.beside] == controls_of(pipe)
    for words in EXAMPLES[1:]:
        if words in found.policies:
            guide(pipe, words)
        else:
            with pytest.raises(UnsupportedPipelineError, match="none can be dropped"):
                guide(pipe, words)


def test_there_is_an_example_of_every_policy():
    assert [words.partition(":")[0] for words in EXAMPLES] == [
        name for name in ("full", "paper", "text", "budget", "every", "growing", "steps", "tol") if name in POLICIES
    ]


def test_every_class_that_is_named_is_in_the_matrix_and_the_other_way_round():
    assert set(FAMILIES) == {row.split()[0] for row in PIPELINES}


def test_the_page_is_that_of_the_matrix():
    written = pipelines_page.PAGE.read_text(encoding="utf-8")
    if f"diffusers {diffusers.__version__}." in written:
        assert written == pipelines_page.page(), "stale: run `python tests/pipelines_page.py`"
    assert {f"`{name}`" for name in FAMILIES} <= set(written.split())
