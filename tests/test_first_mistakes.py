"""What people get wrong first is answered by what they likely meant, and never with a pipeline's JSON."""

import asyncio
import warnings
from functools import partial

import pytest
import torch

import shapefirst
from shapefirst import Evaluations, Guider, ShapefirstError, TextSchedule, apply, edit, guide, text_until, trace
from shapefirst.attention import record, substitute
from shapefirst.checks import share_in
from shapefirst.prompts.known import VocabularyWarning, unseen

N = 6


def generate(pipe, **options):
    return pipe("a cat", num_inference_steps=N, output_type="latent", **options).images


@pytest.mark.parametrize(
    ("mistake", "meant"),
    [
        (lambda pipe: guide(pipe, budget=60), "at most 1, not 60: did you mean budget=0.6 or 60%"),
        (lambda pipe: apply(pipe, budget=60), "did you mean budget=0.6"),
        (lambda pipe: Guider(budget=60), "did you mean budget=0.6"),
        (lambda pipe: guide(pipe, "budget:60"), "did you mean budget:0.6"),
        (lambda pipe: guide(pipe, "budget=0.6"), "did you mean budget:0.6"),
        (lambda pipe: guide(pipe, 0.6), r"not 0.6 .did you mean budget=0.6\?"),
        (lambda pipe: guide(pipe, "60%"), "did you mean budget:0.6, or budget=0.6 in Python"),
        (lambda pipe: guide(pipe, 25), "not 25 .did you mean paper:25, the text in so many steps, or budget=0.25"),
        (lambda pipe: text_until(pipe, 0.5), "not 0.5: did you mean fraction=0.5"),
        (lambda pipe: text_until(pipe, "50%"), "did you mean fraction='50%'"),
        (lambda pipe: text_until(pipe, fraction=50), "did you mean fraction=0.5 or 50%"),
        (lambda pipe: guide(pipe), "Give one of"),
        (lambda pipe: guide("paper:25", pipe), "not a StableDiffusionPipeline"),
        (lambda pipe: guide(pipe, pipe), "not a StableDiffusionPipeline"),
        (lambda pipe: guide(pipe, budget=pipe), "not a StableDiffusionPipeline"),
        (lambda pipe: text_until(25, pipe), "not a StableDiffusionPipeline"),
        (lambda pipe: guide(pipe.unet, budget=0.6), "not for a UNet2DConditionModel"),
        (lambda pipe: guide(pipe, budget=0.8)("a cat"), "not 'a cat': write `with guide"),
    ],
)
@pytest.mark.filterwarnings("ignore:A policy was made")
def test_a_mistake_is_answered_by_what_was_meant(make_pipe, mistake, meant):
    with pytest.raises(ShapefirstError, match=meant) as caught:
        mistake(make_pipe())
    assert len(str(caught.value)) < 400
    assert "{" not in str(caught.value)


def test_a_share_is_a_number_or_in_percent(make_pipe):
    assert [share_in(value, "it", "{}") for value in (0.6, "0.6", "60%", "62.5 %", 1)] == [0.6, 0.6, 0.6, 0.625, 1]
    assert TextSchedule.within("60%") == TextSchedule.within(0.6)
    assert TextSchedule.until(fraction="50%") == TextSchedule.until(fraction=0.5)
    pipe = make_pipe()
    with guide(pipe, "paper:50%") as spent:
        generate(pipe)
    assert spent.rows == 9


def test_a_block_says_how_it_is_used_and_warns_when_it_was_not(make_pipe):
    pipe = make_pipe()
    block = guide(pipe, "paper:25")
    said = repr(block)
    assert said.startswith("<StableDiffusionPipeline with text in the first 25 of 50 steps: write `with guide(")
    assert len(said) < 200
    with pytest.warns(UserWarning, match="never entered: write `with guide") as caught:
        del block
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with guide(pipe, "paper:2"):
            pass
        with pytest.raises(ShapefirstError):
            guide(pipe, budget=0)


def test_every_block_that_was_never_entered_warns(make_pipe):
    pipe = make_pipe()
    embeddings = torch.zeros(1, 77, pipe.unet.config.cross_attention_dim)
    for begin in (trace, record, partial(edit, drop="red"), partial(substitute, embeddings=embeddings, positions=[1])):
        block = begin(pipe)
        assert "above the pipeline's call" in repr(block)
        name = getattr(begin, "func", begin).__name__
        with pytest.warns(UserWarning, match=rf"never entered: write `with {name}\(pipe") as caught:
            del block
        assert caught[0].filename == __file__


def test_a_block_decorates_a_function_and_counts_each_call(make_pipe):
    pipe = make_pipe()
    block = text_until(pipe, 3)

    @block
    def make(scale=5.0):
        """It."""
        return generate(pipe, guidance_scale=scale)

    @block
    async def later():
        return generate(pipe)

    assert (make.__name__, make.__doc__, block.evaluations) == ("make", "It.", None)
    for _ in range(2):
        make(scale=7.5)
        generate(pipe)  # between the calls the pipeline is its own
        assert block.evaluations.rows == 9
    asyncio.run(later())
    assert block.evaluations.rows == 9
    with pytest.raises(ShapefirstError, match="no generator"):
        block(lambda: (yield))


def test_what_was_spent_has_its_share_and_its_seconds(make_pipe):
    pipe = make_pipe()
    with text_until(pipe, 3) as spent:
        generate(pipe)
        during = spent.seconds
    after = spent.seconds
    assert isinstance(spent, Evaluations)
    assert 0 < during < after == spent.seconds
    assert spent.saved == 0.25
    assert str(spent) == f"9 of 12 evaluations, 25% saved, in {after:.1f} s"


def test_without_guidance_the_warning_names_the_scale(make_pipe):
    pipe = make_pipe()
    with text_until(pipe, 3), pytest.warns(UserWarning, match="guidance_scale=7.5 or another scale above 1, or budget"):
        generate(pipe, guidance_scale=1)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a wooden car", ""),
        ("a red car on the left of a wooden house", ""),
        ("", ""),
        ("red", ""),  # of a negative prompt
        ("a red unicorn", "pocket never saw 'unicorn'"),
        ("a red wooden car", "never saw a sentence such as 'a red wooden car'"),
        ("a red car and a blue cup and a green key", "never saw a sentence"),
        ("?!", "no word"),
    ],
)
def test_pocket_says_what_it_never_saw(prompt, said):
    assert (said in unseen(prompt)) if said else unseen(prompt) == ""
    assert unseen(prompt, "pocket-dit") == unseen(prompt).replace("pocket", "pocket-dit")


def test_pocket_warns_in_python_too_and_its_own_examples_are_of_its_world():
    pipe = shapefirst.load("pocket")
    pipe.set_progress_bar_config(disable=True)
    with pytest.warns(VocabularyWarning, match="'a red wooden car'"):
        pipe.encode_prompt("A red wooden car", "cpu", 1, True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.encode_prompt("a wooden car", "cpu", 1, True)
    assert '"a wooden car"' in shapefirst.__doc__


def test_every_public_name_has_its_line_and_is_completed():
    public = set(shapefirst.__all__) - {"__version__"}
    lines = [line.split("  ", 1) for line in shapefirst.__doc__.splitlines() if line[:1].strip() and "  " in line]
    assert {name for name, _ in lines} == public
    assert set(dir(shapefirst)) >= public
    assert {"ModelError", "UnsupportedPipelineError", "Evaluations"} <= public
    for name in public:
        assert getattr(shapefirst, name).__doc__.strip()
