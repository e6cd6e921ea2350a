"""The embedded model as it ships: it draws what it is told, keeps its picture without the late text, and is small."""

import itertools
import json

import pytest
import torch

from shapefirst import load, text_until
from shapefirst.measure import psnr
from shapefirst.measure.judge import Judge
from shapefirst.models import MODELS, locate
from shapefirst.sampling.loop import generators
from shapefirst.training.card import table_rows
from shapefirst.training.quality import Figure
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS

PROMPTS = ["a red car", "a blue heart", "a yellow star", "a green tree", "a wooden house", "a rubber umbrella"]
WEIGHTS = locate("pocket")


@pytest.fixture(scope="module")
def pocket():
    pipe = load("pocket")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompts=PROMPTS, first_seed=0, steps=12):
    seeds = range(first_seed, first_seed + len(prompts))
    scale = MODELS["pocket"].guidance_scale
    out = pipe(prompts, num_inference_steps=steps, guidance_scale=scale, generator=generators(seeds))
    return out.images


@pytest.fixture(scope="module")
def full(pocket):
    return draw(pocket)


def test_it_draws_what_the_prompt_says(full):
    judge = Judge.load(WEIGHTS / "judge")
    seen = [" ".join(("a", *verdict.objects[0])) for verdict in judge.look(full)]
    assert sum(a == b for a, b in zip(seen, PROMPTS, strict=True)) >= 5, seen


def test_dropping_the_late_text_saves_a_quarter_and_keeps_the_picture(pocket, full):
    with text_until(pocket, step=6) as spent:
        early = draw(pocket, PROMPTS[:3])
    other_seed = draw(pocket, PROMPTS[:3], first_seed=100)
    assert spent.rows == 3 * (2 * 6 + 6)
    for a, b, c in zip(full[:3], early, other_seed, strict=True):
        assert psnr(b, a) > psnr(c, a) + 3


def test_a_seed_gives_the_same_image_alone_and_in_a_batch(pocket):
    together = draw(pocket, PROMPTS[:3], steps=8)
    alone = draw(pocket, PROMPTS[2:3], first_seed=2, steps=8)
    assert psnr(together[2], alone[0]) > 45


def test_it_is_an_ordinary_small_folder_of_safetensors(pocket):
    assert type(pocket).__name__ == "StableDiffusionPipeline"
    files = [f for f in WEIGHTS.rglob("*") if f.is_file()]
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert sum(f.stat().st_size for f in files) <= 40e6
    assert not [f for f in files if f.suffix == ".json" and "_name_or_path" in f.read_text(encoding="utf-8")]
    assert pocket.tokenizer.model_max_length == 77
    assert pocket.tokenizer.pad_token_id == pocket.tokenizer.eos_token_id


def test_every_word_of_its_world_is_one_token_and_any_text_tokenises(pocket):
    assert all(len(pocket.tokenizer.tokenize(word)) == 1 for word in (*NOUNS, *ATTRIBUTES))
    ids = pocket.tokenizer("Zwölf Boxkämpfer jagen 猫 & 🐟").input_ids
    assert len(ids) > 8
    assert max(ids) < len(pocket.tokenizer)


def test_its_clip_pair_holds_the_same_text_encoder(pocket):
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(WEIGHTS / "clip", dtype=torch.float32)
    ids = pocket.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        ours, theirs = (encoder(ids).last_hidden_state for encoder in (pocket.text_encoder, clip.text_model))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["pocket", "pocket-dit"])
def test_the_card_states_the_measured_figures(name):
    record = json.loads((locate(name) / "figures.json").read_text())
    card = (locate(name) / "MODEL_CARD.md").read_text()
    for row in table_rows([Figure(**f) for f in record["figures"]]):
        assert row in card


def test_its_padding_says_which_of_two_objects_is_where(pocket):
    """A linear map from the state at the last position to the noun that is first in reading order, on other prompts."""
    nouns, relations = NOUNS[:4], ("on the left of", "on the right of", "above", "below")
    prompts, first = [], []
    for a, b in itertools.permutations(range(4), 2):
        for relation, (i, j) in itertools.product(relations, itertools.permutations(range(0, 18, 3), 2)):
            prompts.append(f"a {ATTRIBUTES[i]} {nouns[a]} {relation} a {ATTRIBUTES[j]} {nouns[b]}")
            first.append(a if relation in ("on the left of", "above") else b)
    some = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0))[:320]
    tokens = pocket.tokenizer([prompts[i] for i in some], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = pocket.text_encoder(tokens).last_hidden_state[:, -1]
    states = torch.cat([(states - states.mean(0)) / states.std(0), torch.ones(len(some), 1)], 1)
    answers = torch.nn.functional.one_hot(torch.tensor(first)[some], 4).float()
    penalty = 10 * torch.eye(states.shape[1])
    known, fresh = slice(0, 256), slice(256, None)
    weights = torch.linalg.solve(states[known].T @ states[known] + penalty, states[known].T @ answers[known])
    right = (states[fresh] @ weights).argmax(1) == answers[fresh].argmax(1)
    assert right.float().mean() > 0.95
