"""The demo shows what it says: prompts that pocket knows, one combination it never saw, what was saved."""

from PIL import Image

from shapefirst.images.comparison import Comparison, decibels, percent
from shapefirst.images.demo import POLICIES, PROMPTS, demo_page, marked
from shapefirst.images.gallery import gallery_prompts
from shapefirst.images.jobs import Result
from shapefirst.world.vocabulary import ATTRIBUTES, HELD_OUT, NOUNS, unknown_words


def row(title, prompt, value, seconds, reference=None):
    results = [Result(prompt, 0, Image.new("RGB", (8, 8), (value,) * 3), seconds * 10, 100, seconds)]
    return Comparison(title, results, reference.results if reference else results)


def test_pocket_knows_every_word_of_the_demo():
    assert len(PROMPTS) == 8
    assert [word for prompt in PROMPTS for word in unknown_words(prompt)] == []


def test_exactly_one_prompt_is_a_combination_never_seen_and_it_says_so():
    assert [prompt for prompt in PROMPTS if marked(prompt) != prompt] == ["a pink cactus"]
    assert ("pink", "cactus") in HELD_OUT
    assert "never seen in training" in marked("a pink cactus")


def test_the_page_escapes_whatever_the_prompts_are():
    prompt = '<i>"cat"</i> \' & ein Käse 奶酪 {{ title }}'
    full = row("full guidance", prompt, 0, 2.0)
    page = demo_page([full, row("text <first>", prompt, 51, 1.5, full)], "<model>", [prompt])
    for raw in ("<i>", '"cat"', "' &", "<first>", "<model>"):
        assert raw not in page
    assert page.count("&lt;i&gt;&#34;cat&#34;&lt;/i&gt; &#39; &amp; ein Käse 奶酪 {{ title }}") == 3
    assert "default-src 'none'" in page


def test_the_page_states_what_was_saved_and_what_changed():
    full = row("full guidance", "a cat", 0, 2.0)
    page = demo_page([full, row("text in the first 25", "a cat", 51, 1.5, full)], "", ["a cat"])
    assert page.count("(25% saved)") == 1
    assert "of the time" not in page
    assert "0.2000" in page
    assert "14.0 dB" in page


def test_the_page_ends_with_what_to_do_next():
    full = row("full guidance", "a cat", 0, 2.0)
    page = demo_page([full], "", ["a cat"])
    for command in (
        "generate &#34;a wooden house&#34; --budget 0.75 --compare",
        "tune",
        "check YOUR-MODEL",
        "study all",
    ):
        assert f"shapefirst {command}" in page


def test_the_demo_keeps_the_picture_before_it_drops_the_text():
    assert POLICIES == ("budget:0.75", "budget:0.6", "paper:25", "paper:10")


def test_figures_read_well():
    assert decibels(float("inf")) == "identical"
    assert decibels(27.94) == "27.9 dB"
    assert percent(0.25) == "25%"


def test_the_gallery_has_one_picture_for_every_word_and_nothing_held_out():
    prompts = gallery_prompts()
    assert list(prompts) == [*NOUNS, *ATTRIBUTES]
    assert prompts["orange"].startswith("an orange ")
    assert not {tuple(prompt.split()[1:]) for prompt in prompts.values()} & HELD_OUT
    assert [word for prompt in prompts.values() for word in unknown_words(prompt)] == []
