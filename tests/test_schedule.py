"""The laws of TextSchedule."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapefirst.errors import ShapefirstError
from shapefirst.policies.placement import Budget, Every, Growing
from shapefirst.policies.schedule import TextSchedule

STEPS = st.integers(1, 60)
BRANCH = st.sampled_from(["null", "text"])
WINDOWS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda span: (span[0], span[0] + span[1])), max_size=5
)


def guided(schedule: TextSchedule, num_steps: int) -> list[bool]:
    return [schedule.uses_text(step, num_steps) for step in range(num_steps)]


@given(STEPS, st.data(), BRANCH)
def test_until_k_guides_the_first_k_steps(num_steps, data, keep):
    k = data.draw(st.integers(0, num_steps))
    schedule = TextSchedule.until(k, keep=keep)
    assert guided(schedule, num_steps) == [True] * k + [False] * (num_steps - k)
    assert schedule.evaluations(num_steps) == num_steps + k
    assert schedule.saved(num_steps) == pytest.approx((num_steps - k) / (2 * num_steps))


@given(STEPS, st.floats(0, 1))
def test_fraction_is_rounded_to_steps(num_steps, fraction):
    k = TextSchedule.until(fraction=fraction).text_steps(num_steps)
    assert k == math.floor(fraction * num_steps + 0.5)
    assert guided(TextSchedule.until(fraction=fraction), num_steps) == guided(TextSchedule.until(k), num_steps)


@given(STEPS, st.data())
def test_until_and_starting_at_complement_each_other(num_steps, data):
    k = data.draw(st.integers(0, num_steps))
    after = guided(TextSchedule.starting_at(k), num_steps)
    assert [not text for text in after] == guided(TextSchedule.until(k), num_steps)


@given(WINDOWS, WINDOWS)
def test_windows_mean_the_union_of_their_steps(first, second):
    steps = {step for start, stop in first + second for step in range(start, stop)}
    schedule = TextSchedule(windows=tuple(first + second))
    assert guided(schedule, 81) == [step in steps for step in range(81)]
    assert schedule == TextSchedule(windows=tuple(second + first))
    assert schedule == TextSchedule(windows=tuple((step, step + 1) for step in steps))
    assert hash(schedule) == hash(TextSchedule(windows=schedule.windows))


@given(STEPS)
def test_the_extremes(num_steps):
    assert TextSchedule.always().evaluations(num_steps) == 2 * num_steps
    assert TextSchedule.never().evaluations(num_steps) == num_steps
    assert TextSchedule.until(0) == TextSchedule.never()
    assert TextSchedule.starting_at(0) == TextSchedule.window(0, None) == TextSchedule.always()
    assert TextSchedule.until(0, keep="text") != TextSchedule.until(0)


PLACEMENTS = st.one_of(
    st.builds(Every, st.integers(1, 10**9)),
    st.builds(Growing, st.integers(1, 10**9), st.floats(1, exclude_max=True, max_value=math.inf)),
    st.builds(Budget, st.floats(0, 1, exclude_min=True)),
)


@given(st.data(), st.none() | st.integers(1, 2000))
def test_every_schedule_has_words_for_itself(data, num_steps):
    """Also one that fits no number of steps, such as a budget too small to extrapolate from."""
    bounds = st.integers(0, 10**12) | st.integers(0, 60)
    some = {
        "windows": st.lists(st.tuples(bounds, bounds | st.none()).map(sorted_window), max_size=4).map(tuple),
        "fraction": st.floats(0, 1),
        "placement": PLACEMENTS,
    }
    field = data.draw(st.sampled_from(sorted(some)))
    keep = data.draw(st.sampled_from(["null", "text", "neither"]))
    order = data.draw(st.integers(0, 3) if keep == "neither" else st.none() | st.integers(0, 3))
    schedule = TextSchedule(**{field: data.draw(some[field])}, keep=keep, order=order, num_steps=num_steps)
    said = str(schedule)
    assert said == repr(schedule) or said == schedule.strip(len(said))


def sorted_window(window):
    return window if window[1] is None else tuple(sorted(window))


def test_words_of_a_schedule_are_those_of_the_fewest_steps_that_it_fits():
    assert str(TextSchedule.within(0.6)) == TextSchedule.within(0.6).strip(50)
    assert len(str(TextSchedule.within(0.05))) == 100  # 5 of 50 steps are the fewest that a budget places
    assert len(str(replace(TextSchedule.until(3), num_steps=7))) == 7
    assert str(TextSchedule.at([3])) == repr(TextSchedule.at([3]))  # nothing to extrapolate from


@given(STEPS, st.integers(1, 30))
def test_a_step_beyond_the_last_is_refused(num_steps, beyond):
    bound = num_steps + beyond
    for schedule, said in (
        (TextSchedule.until(bound), f"guides the first {bound} steps, but this generation has {num_steps}:"),
        (TextSchedule.starting_at(bound), f"guides step {bound}, .* of this generation of {num_steps} is"),
    ):
        with pytest.raises(ShapefirstError, match=said):
            schedule.uses_text(0, num_steps)


@pytest.mark.parametrize("step", [-1, 2.5, "25", True, math.nan])
def test_a_step_is_a_whole_number(step):
    with pytest.raises(ShapefirstError, match="step must be a whole number"):
        TextSchedule.until(step)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan, math.inf, "half", True])
def test_a_fraction_lies_between_0_and_1(fraction):
    with pytest.raises(ShapefirstError, match=r"fraction(= of .*)? must be a (finite )?number"):
        TextSchedule.until(fraction=fraction)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TextSchedule.until(), "either a step"),
        (lambda: TextSchedule.until(3, fraction=0.5), "either a step"),
        (lambda: TextSchedule.until(3, keep="both"), 'must be "null" or "text", not'),
        (lambda: TextSchedule.every(3, keep="both"), 'must be "null", "text" or "neither"'),
        (lambda: TextSchedule.window(5, 3), "ends before it starts"),
        (lambda: TextSchedule(windows=(3,)), "pair"),
        (lambda: TextSchedule(windows=((0, 3),), fraction=0.5), "not both"),
        (lambda: TextSchedule.always().uses_text(5, 5), "has no step 5"),
        (lambda: TextSchedule.always().evaluations(0), "a whole number from 1 to 4000, not 0"),
    ],
)
def test_contradictions_are_refused(make, message):
    with pytest.raises(ShapefirstError, match=message):
        make()


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, shapefirst.policies.schedule; print({'torch', 'diffusers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_public_names_come_on_demand():
    import shapefirst

    assert {name for name in shapefirst.__all__ if getattr(shapefirst, name) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        shapefirst.nothing  # noqa: B018


def test_steps_without_end_are_refused():
    with pytest.raises(ShapefirstError, match="at most 4,000 guided steps"):
        TextSchedule.at(itertools.count())
