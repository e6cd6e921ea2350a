"""What is asked for without measure is refused in one sentence, before any work; nothing counts twice."""

import re

import pytest
from commands import one_sentence, shapefirst
from hypothesis import example, given
from hypothesis import strategies as st

from shapefirst.checks import BOUNDS, check_number
from shapefirst.errors import ShapefirstError, said, sentence_of
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.spacing import spread
from shapefirst.policies.words import find_policy, policy_of
from shapefirst.sweep.grid import Grid, Shards, read_grid

ENDLESS = "9" * 5000


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "a cat", "--steps", "10000000"),
        ("generate", "a cat", "--steps", ENDLESS),
        ("generate", "a cat", "--num-images", 10**10),
        ("generate", "a cat", "a dog", "--num-images", 60_000),
        ("generate", "a cat", "--seed", ENDLESS),
        ("generate", "a cat", "--guidance-scale", "1e308"),
        ("generate", "a cat", "--policy", "steps:0-999999999"),
        ("generate", "a cat", "--policy", f"every:{ENDLESS}"),
        ("generate", "a cat", "--policy", f"paper:{ENDLESS}"),
        ("generate", "a cat", "--policy", "x" * 100_000),
        ("generate", "a cat", "--keep", "x" * 100_000),
        ("generate", "a cat", "--" + "x" * 100_000),
        ("generate", "--prompts-file", "x " * 10_000),
        ("report", "folder", "x " * 5000),
        ("demo", "--seed", 2**64),
        ("tune", "--batch-size", 10**12),
        ("tune", "--steps", 10**7),
        ("tune", "--guidance-scale", "1e308"),
        ("study", "f1", "--steps", 10**7),
        ("study", "f1", "--prompts", 10**10),
        ("study", "f1", "--batch-size", 10**12),
        ("sweep", "latency", "--rounds", 10**12),
        ("sweep", "latency", "--batch", 10**12),
        ("sweep", "run", "--ray", "local", "--cores", 10**12),
        ("sweep", "run", "--ray", "local", "--gpus", "1e308"),
        ("sweep", "run", "--batch-size", 10**12),
        ("sweep", "plan", "--steps", 10**7),
        ("sweep", "plan", "--text-steps", "0:999999999:1"),
        ("sweep", "plan", "--text-steps", ENDLESS),
        ("sweep", "plan", "--text-steps", f"{ENDLESS}%"),
        ("sweep", "plan", "--images-per-prompt", 10**8),
        ("sweep", "plan", "--shard-size", "1", "--images-per-prompt", 10**4),
        ("sweep", "plan", "--count", 10**12),
        ("prompts", "pocket", "--count", 10**12),
        ("prompts", "pocket", "--pairs", 10**12),
    ],
)
def test_numbers_without_end_are_refused_before_any_work(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(one_sentence(shapefirst(*arguments))) < 700
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", BOUNDS)
def test_bounds_hold_their_ends_and_no_more(kind):
    least, most = BOUNDS[kind]
    check_number(least, kind, "it")
    check_number(most, kind, "it")
    for wrong in (least - 1, most + 1, 10**5000, -(10**5000), float("nan"), float("inf")):
        with pytest.raises(ShapefirstError, match=r"^it must be .*\."):
            check_number(wrong, kind, "it")


@pytest.mark.parametrize(
    "entries",
    [
        f"steps = [{ENDLESS}]",
        "steps = " + "[" * 100_000,
        "a" + ".a" * 20_000 + " = 1",
        f"steps = {[*range(1, 100_000)]}",
        f"text_steps = {['0:4000:1'] * 1001}\nsteps = [4000]",
        f"steps = {[*range(1, 999)]}\nguidance_scale = {[float(w) for w in range(2, 999)]}",
        "guidance_scale = [1e308]",
    ],
)
def test_grids_without_end_are_refused(tmp_path, entries):
    (tmp_path / "grid.toml").write_text(entries)
    with pytest.raises(ShapefirstError) as raised:
        read_grid(tmp_path / "grid.toml", {})
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("samplers", ["ddim", "ddim"]),
        ("steps", [10, 20, 10]),
        ("keep", ["text", "null", "text"]),
        ("guidance_scale", [4, 4.0]),
        ("models", ["pocket", "pocket"]),
        ("models", ["sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5"]),
    ],
)
def test_a_grid_that_says_the_same_twice_is_refused(field, values):
    with pytest.raises(ShapefirstError, match=f"{field} says the same twice"):
        read_grid(None, {field: values})


def test_two_spellings_of_a_folder_are_one_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    for other in ("./model", str(tmp_path / "model"), "link"):
        with pytest.raises(ShapefirstError, match="models says the same twice, 'model' and "):
            Grid(models=("model", other))


def test_policies_that_do_the_same_are_one():
    grid = Grid(text_steps=("50%", "25", "25:25:1"), policies=("budget:0.6", "budget:0.60", "paper:0.5"))
    assert list(grid.schedules(50)) == ["full", "paper:25", "budget:0.6"]


def test_a_plan_has_a_number_of_shards_that_can_be_counted():
    from shapefirst.prompts import mixed, parse_prompts

    with pytest.raises(ShapefirstError, match="number of shards must be at most 100,000"):
        Shards(Grid(images_per_prompt=100_000, shard_size=1), parse_prompts(mixed(2, 0)))


def test_a_prompt_that_comes_again_is_one_image(tmp_path, monkeypatch):
    from shapefirst.cli import generate

    noted = []
    monkeypatch.setattr(generate.terminal, "note", noted.append)
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na cat\n")
    assert generate._all_prompts(["a cat"], tmp_path / "prompts.txt") == ["a cat", "a dog"]
    assert "come again (2)" in noted[0]


def test_a_list_of_steps_is_no_file_name():
    words = "steps:" + "+".join(map(str, range(0, 199, 2)))
    assert len(words) > 255
    assert find_policy(words) == TextSchedule.at(range(0, 199, 2))


@pytest.mark.parametrize("text", ["10**400", "10**5000", "-10**5000", "5000"])
def test_numbers_of_a_policy(text):
    number = eval(text)
    for call in (
        lambda: policy_of(None, budget=number),
        lambda: policy_of(None, tol=-abs(number)),
        lambda: TextSchedule.until(fraction=number),
        lambda: TextSchedule.always().guided_steps(number),
    ):
        with pytest.raises(ShapefirstError):
            call()


values = st.text(min_size=201, max_size=2000) | st.text("' \"a", min_size=201, max_size=2000)


@given(values, st.booleans())
@example("'a " * 1000, False)
@example('"x' * 1000, False)
@example("\x1b[31m\u202e\r\n" * 100, True)
def test_a_sentence_is_one_line_and_shows_no_value_at_length(value, quoted):
    error = ShapefirstError(f"The model's value {value!r} is none." if quoted else f"No such option: {value}")
    assert len(str(error)) <= 2000 * 10
    assert not re.search(r"[\x00-\x08\n-\x1f\x7f-\x9f\u202e]", str(error))
    if quoted:
        assert len(str(error)) < 4 * 200 + 50  # an escape for a character
        assert str(error).endswith(" is none.")


@given(st.text("abc' ,.", max_size=150))
def test_a_short_sentence_stays_as_it_is(text):
    assert sentence_of(text) == text


def test_whatever_a_value_is_it_can_be_said():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (10**5000, deep, "x" * 10**6, [1] * 10**6):
        assert len(said(value)) <= 200


def naive(num_steps, guided, first, last, power):
    """`spread` as it was first written."""
    found = set(range(min(first, num_steps))) | set(range(max(num_steps - last, 0), num_steps))
    start, end, between = first - 1, num_steps - last, guided - len(found)
    for j in range(1, between + 1):
        place = start + (end - start) * (j / (between + 1)) ** power
        found.add(min(set(range(num_steps)) - found, key=lambda step: (abs(step - place), step)))
    return frozenset(found)


@given(st.integers(5, 80), st.floats(0, 1), st.floats(0.5, 3))
def test_steps_spread_as_far_as_ever(num_steps, share, power):
    guided = 5 + round(share * (num_steps - 5))
    assert spread(num_steps, guided, 3, 2, power) == naive(num_steps, guided, 3, 2, power)
