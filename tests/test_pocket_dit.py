"""The second embedded model as it ships: a stock PixArt pipeline of pocket's world, scored by what lies with pocket."""

import pytest
import torch
from test_pocket import PROMPTS

from shapefirst import guide, load
from shapefirst.measure.judge import Judge
from shapefirst.measure.scores import alignments_for, features_for
from shapefirst.models import MODELS, default_guidance_scale, is_pocket, locate
from shapefirst.models.catalogue import POCKET, scorers_folder
from shapefirst.sampling.loop import generators

WEIGHTS = locate("pocket-dit")


@pytest.fixture(scope="module")
def pipe():
    made = load("pocket-dit")
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe, prompts=PROMPTS, steps=15):
    options = {"height": 64, "width": 64, "use_resolution_binning": False, "output_type": "pil"}
    scale = MODELS["pocket-dit"].guidance_scale
    seeds = generators(range(len(prompts)))
    return pipe(prompts, num_inference_steps=steps, guidance_scale=scale, generator=seeds, **options).images


@pytest.fixture(scope="module")
def full(pipe):
    return draw(pipe)


def test_it_draws_what_the_prompt_says(full):
    seen = [" ".join(("a", *verdict.objects[0])) for verdict in Judge.load(POCKET / "judge").look(full)]
    assert sum(a == b for a, b in zip(seen, PROMPTS, strict=True)) >= 5, seen


def test_a_budget_keeps_its_picture(pipe, full):
    with guide(pipe, budget=0.6) as spent:
        saved = draw(pipe)
    assert spent.saved == pytest.approx(0.4, abs=0.02)
    judge = Judge.load(POCKET / "judge")
    assert sum(a.objects == b.objects for a, b in zip(judge.look(saved), judge.look(full), strict=True)) >= 5


def test_it_is_an_ordinary_small_folder_of_safetensors(pipe):
    assert type(pipe).__name__ == "PixArtAlphaPipeline"
    assert type(pipe.text_encoder).__name__ == "T5EncoderModel"
    files = [f for f in WEIGHTS.rglob("*") if f.is_file()]
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    weights = [f for name in ("pocket", "pocket-dit") for f in locate(name).rglob("*.safetensors")]
    assert sum(f.stat().st_size for f in files if f.suffix == ".safetensors") <= 20e6
    assert sum(f.stat().st_size for f in weights) <= 60e6
    assert not [f for f in files if f.suffix == ".json" and "_name_or_path" in f.read_text(encoding="utf-8")]


def test_its_autoencoder_is_pockets():
    ours, theirs = (folder / "vae" / "diffusion_pytorch_model.safetensors" for folder in (WEIGHTS, POCKET))
    assert ours.read_bytes() == theirs.read_bytes()


def test_its_padding_is_masked(pipe):
    """What stands behind </s> changes no picture, as it does pocket's."""
    states, mask, *_ = pipe.encode_prompt("a red car", do_classifier_free_guidance=False, device="cpu")
    assert 0 < mask.sum() < mask.numel()
    x, t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    sizes = {"resolution": None, "aspect_ratio": None}

    def predicted(states):
        text = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        return pipe.transformer(x, timestep=t, added_cond_kwargs=sizes, **text, return_dict=False)[0]

    noise = torch.randn_like(states)
    with torch.no_grad():
        assert torch.allclose(predicted(states), predicted(torch.where(mask[..., None] > 0, states, noise)), atol=1e-5)
        assert not torch.allclose(predicted(states), predicted(noise), atol=1e-3)


def test_it_is_scored_by_what_lies_with_pocket():
    assert is_pocket("pocket-dit")
    assert scorers_folder(WEIGHTS) == scorers_folder(POCKET) == POCKET
    assert scorers_folder(WEIGHTS.parent.parent) == WEIGHTS.parent.parent
    assert default_guidance_scale("pocket-dit") == 4.0
    assert list(alignments_for("pocket-dit")) == ["clipscore", "judge", "judge-noun", "judge-attribute"]
    assert features_for("pocket-dit")[0] == "judge's features"
