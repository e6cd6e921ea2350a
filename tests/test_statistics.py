"""Intervals cover what they should, verdicts follow their rule, and tidy tables hold every measurement once."""

import ast
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapefirst.drawing import charts
from shapefirst.drawing.notation import rule_in_short
from shapefirst.errors import ShapefirstError
from shapefirst.findings.discovery import p_value, standing
from shapefirst.findings.finding import claim, subject_to
from shapefirst.findings.tables import crossed, stacked
from shapefirst.measure.intervals import (
    ANY,
    POSITIVE,
    SHARE,
    SIGNED,
    Interval,
    Rule,
    bootstrap,
    hardest,
    jackknife,
    of_prompts,
    ratio_of_means,
    student,
)


def test_the_interval_of_a_mean_is_the_normal_one_for_many_prompts():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    found = bootstrap(values)
    half = 1.959964 * values.std(ddof=1) / math.sqrt(len(values))
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert found.n == 400


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(100):
        found = bootstrap(rng.exponential(1.0, size=60))
        held += found.low <= 1.0 <= found.high
    assert 87 <= held <= 99


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_of_few_normal_values_as_many_intervals_hold_the_truth(n):
    """Percentiles alone would hold it in 50% (n = 2) to 89% (n = 12) of runs."""
    rng = np.random.default_rng(n)
    found = [bootstrap(rng.normal(size=n)) for _ in range(300)]
    assert 0.90 <= np.mean([f.low <= 0 <= f.high for f in found]) <= 0.99


#: Of Student's distribution with 39 degrees of freedom, from a table.
T_975, T_995 = 2.0227, 2.7079


def test_students_quantiles_are_those_of_printed_tables():
    assert student(2, 0.95) == pytest.approx(12.7062, abs=1e-4)
    assert student(40, 0.95) == pytest.approx(T_975, abs=1e-4)
    assert student(40, 0.99) == pytest.approx(T_995, abs=1e-4)


def test_an_interval_is_students_where_the_percentiles_are_normal():
    values = np.random.default_rng(5).normal(size=40)
    half = T_975 * values.std(ddof=1) / math.sqrt(40)
    assert bootstrap(values).high - values.mean() == pytest.approx(half, rel=0.1)
    wide = bootstrap(values, level=0.99).high - values.mean()
    assert wide == pytest.approx(half * T_995 / T_975, rel=0.15)


@pytest.mark.parametrize("side", ["above", "below"])
def test_the_hardest_of_several_conditions_decides(side):
    sign = 1 if side == "above" else -1
    rule, rng = Rule(side, 0.0), np.random.default_rng(6)
    clear, close, against = (sign * (mean + rng.normal(size=20)) for mean in (5, 0.1, -5))
    assert rule.verdict(hardest([clear, clear], rule)) == "replicates"
    assert rule.verdict(hardest([clear, close], rule)) == "inconclusive"
    assert rule.verdict(hardest([clear, against, close], rule)) == "does not replicate"
    assert hardest([clear, close], rule).estimate == pytest.approx(close.mean())
    assert hardest([clear], rule) == bootstrap(clear)


def test_many_conditions_without_an_effect_seldom_decide_anything():
    rule, rng = Rule("above", 0.0), np.random.default_rng(7)
    verdicts = [rule.verdict(hardest(list(rng.normal(size=(6, 8))), rule)) for _ in range(100)]
    assert verdicts.count("inconclusive") >= 88


def test_a_ratio_of_means_is_no_mean_of_ratios():
    x = np.array([[1.0, 1.0], [9.0, 3.0]])
    assert ratio_of_means(x) == pytest.approx(10 / 4)
    assert bootstrap(x, ratio_of_means).estimate == pytest.approx(2.5)
    assert math.isnan(ratio_of_means(np.zeros((2, 2))))


def test_the_same_values_give_the_same_interval_and_constants_a_point():
    values = np.random.default_rng(3).normal(size=20)
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)


def test_scores_that_could_not_be_read_are_left_out_and_not_counted():
    assert bootstrap([1.0, math.nan, 3.0, 1.0, 3.0]) == bootstrap([1.0, 3.0, 1.0, 3.0])
    assert bootstrap(np.array([[1.0, 1.0], [math.nan, 2.0], [3.0, 1.0]]), ratio_of_means).n == 2


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [math.inf, 1.0]])
def test_too_few_or_endless_values_are_refused(values):
    with pytest.raises(ShapefirstError):
        bootstrap(values)


@given(low=st.floats(-5, 5), width=st.floats(0, 3), threshold=st.floats(-5, 5))
def test_a_verdict_needs_the_whole_interval_on_one_side(low, width, threshold):
    found = Interval(low + width / 2, low, low + width, 9)
    above, below = Rule("above", threshold).verdict(found), Rule("below", threshold).verdict(found)
    if low > threshold:
        assert (above, below) == ("replicates", "does not replicate")
    elif low + width < threshold:
        assert (above, below) == ("does not replicate", "replicates")
    else:
        assert above == below == "inconclusive"


def test_fewer_than_eight_prompts_give_no_verdict_and_the_reason_is_said():
    rule = Rule("above", 0.5)
    for n, verdict in ((2, "inconclusive"), (7, "inconclusive"), (8, "replicates")):
        found = claim("It is.", paper="it is", quantity="share", found=Interval(0.9, 0.8, 1.0, n), rule=rule)
        assert found.verdict == verdict
        assert found.reason == ("" if n == 8 else f"n = {n}, and a verdict takes 8 or more.")
    covering = claim("It is.", paper="it is", quantity="share", found=Interval(0.6, 0.4, 0.8, 50), rule=rule)
    assert (
        covering.reason
        == "The interval covers the threshold, 0.5: about n = 200 would tell, were the estimate to stay."
    )
    lost = subject_to(covering, replace(covering, verdict="replicates", found=Interval(0.6, 0.55, 0.7, 50)), "Why.")
    assert (lost.verdict, lost.reason) == ("inconclusive", "The study's control does not replicate.")


@given(estimate=st.floats(-1, 1), spread=st.floats(0.01, 3), least=st.sampled_from([0.0, 0.3]))
def test_so_many_prompts_as_are_said_to_be_enough_decide(estimate, spread, least):
    """And a tenth fewer do not, two digits being what is said."""

    def of(n):
        reach = spread / math.sqrt(n)
        return Interval(estimate, estimate - reach, estimate + reach, n)

    for side in ("above", "below"):
        rule = Rule(side, 0.0, least)
        if rule.verdict(of(9)) != "inconclusive":
            continue
        if (n := rule.enough(of(9))) is None:
            assert min(abs(estimate), abs(estimate - rule.edge)) < 2e-3 * spread
            continue
        assert rule.verdict(of(math.ceil(1.001 * n))) != "inconclusive"
        assert rule.verdict(of(max(8, math.floor(0.9 * n)))) == "inconclusive"


def test_claims_of_our_own_are_told_from_the_papers():
    papers = {
        "the early steps decide": False,
        "not asked": True,
        "Not asked: w = 7.5": True,
        "taken for granted: it": True,
    }
    for paper, own in papers.items():
        found = claim("It.", paper=paper, quantity="q", found=Interval(1, 0, 2, 9), rule=Rule("above", 0))
        assert found.is_own is own


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_an_interval_stays_within_what_is_possible(values):
    free, bounded = bootstrap(values), bootstrap(values, within=SIGNED)
    assert bounded == free.inside(SIGNED)
    assert -1 <= bounded.low <= bounded.estimate <= bounded.high <= 1
    assert (bounded.low, bounded.high) == (max(free.low, -1), min(free.high, 1))


def test_two_rank_correlations_of_one_and_less_end_at_one():
    """A1 once had -1.8 to 2.1, and F1 a score of 1.21."""
    assert bootstrap([1.0, -0.7]).high > 2
    assert bootstrap([1.0, -0.7], within=SIGNED) == Interval(pytest.approx(0.15), -1.0, 1.0, 2)
    assert bootstrap([0.99, 0.6, 0.98], within=SHARE).high == 1
    assert bootstrap([[0.1, 1.0], [3.0, 1.0], [0.1, 1.0]], ratio_of_means, within=POSITIVE).low == 0
    assert jackknife(0.5, [0.1, 0.9, 0.5], 30, within=POSITIVE).low == 0
    rule = Rule("above", 0)
    assert hardest([[1.0, -0.7], [1.0, 0.9]], rule, within=SIGNED).high <= 1
    assert SHARE.difference == SIGNED
    assert POSITIVE.difference == ANY


def test_every_interval_that_is_printed_says_what_its_quantity_can_be():
    root = Path(__file__).parent.parent
    forgotten = []
    for file in (*(root / "src" / "shapefirst").rglob("*.py"), *(root / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "id", "")
            if name in ("bootstrap", "jackknife", "hardest", "cell") and not any(
                k.arg == "within" for k in node.keywords
            ):
                forgotten.append(f"{file.name}:{node.lineno}")
    assert forgotten == []


def test_false_discoveries_are_held_at_their_rate():
    def tested(estimate, error, n=20):
        found = Interval(estimate, estimate - 1.96 * error, estimate + 1.96 * error, n)
        return claim("It.", paper="it", quantity="q", found=found, rule=Rule("above", 0))

    claims = [tested(3.0, 1.0), tested(2.2, 1.0), tested(2.0, 1.0), *(tested(0.1, 1.0) for _ in range(7))]
    p = [p_value(one) for one in claims]
    assert p[:3] == pytest.approx([0.0027, 0.0278, 0.0455], rel=0.01)
    assert [one.verdict for one in claims[:3]] == ["replicates"] * 3
    assert standing(claims) == [True] + [False] * 9  # 0.0027 <= 0.05 / 10, and 0.0278 > 0.05 * 2 / 10
    assert standing(claims[:3]) == [True, True, True]
    assert standing([tested(9.0, 1.0, n=3)]) == [False]
    assert standing([]) == []


def test_a_rule_says_what_it_is():
    assert str(Rule("below", 0.9)) == "replicates if the 95% interval lies below 0.9"
    assert str(Rule("above", 0, 0.05)).endswith("lies above 0, and does not if it ends below 0.05")
    assert str(Rule("below", 1, 0.05)).endswith("lies below 1, and does not if it ends above 0.95")
    assert rule_in_short(Rule("below", 1, 0.05)) == "interval lies below\xa01; above\xa00.95 no effect to speak of"


@given(low=st.floats(-5, 5), width=st.floats(0, 3), threshold=st.floats(-5, 5), least=st.floats(0.01, 2))
def test_an_effect_that_is_surely_too_small_does_not_replicate(low, width, threshold, least):
    found, plain = Interval(low + width / 2, low, low + width, 9), Rule("above", threshold)
    verdict = Rule("above", threshold, least).verdict(found)
    if plain.verdict(found) == "inconclusive" and low + width < threshold + least:
        assert verdict == "does not replicate"
    else:
        assert verdict == plain.verdict(found), "an interval on one side decides as ever"
    mirrored = Interval(-found.estimate, -found.high, -found.low, 9)
    assert Rule("below", -threshold, least).verdict(mirrored) == verdict
    with pytest.raises(ShapefirstError, match="least"):
        Rule("above", threshold, -least)


def test_the_p_value_of_too_small_an_effect_is_that_against_the_smallest_one():
    found = Interval(0.0, -0.0196, 0.0196, 20)  # 0.05 is five standard errors away
    one = claim("It.", paper="it", quantity="q", found=found, rule=Rule("above", 0, 0.05))
    assert (one.verdict, one.reason) == ("does not replicate", "")
    assert p_value(one) == pytest.approx(math.erfc(5 * 1.959964 / 1.96 / math.sqrt(2)), rel=1e-4)
    assert p_value(replace(one, rule=Rule("above", 0))) == 1


def test_the_jackknife_of_a_mean_without_one_value_each_is_students_interval():
    x = np.random.default_rng(3).exponential(size=10)
    found = jackknife(x.mean(), [np.delete(x, i).mean() for i in range(10)], 10)
    reach = 2.262157 * x.std(ddof=1) / math.sqrt(10)  # t(9) from a printed table
    assert (found.low, found.high) == pytest.approx((x.mean() - reach, x.mean() + reach), rel=1e-5)


def test_without_groups_there_is_no_interval():
    found = jackknife(3.0, [], 7)
    assert (found.estimate, found.n) == (3.0, 7)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize("n", [2, 5, 40])
def test_bands_in_charts_are_the_intervals_of_the_claims(n):
    values = np.random.default_rng(n).normal(size=(n, 3))
    with charts.figure() as (_, (axis,)):
        charts.band(axis, [0, 1, 2], values, style=0, label="values")
        drawn = axis.collections[0].get_paths()[0].vertices
    for place in range(3):
        at = drawn[drawn[:, 0] == place, 1]
        found = bootstrap(values[:, place])
        assert (at.min(), at.max()) == pytest.approx((found.low, found.high), abs=0.2 * (found.high - found.low))


def test_images_of_one_prompt_are_no_measurements_apart():
    rng = np.random.default_rng(3)
    which = np.tile(np.arange(40), 8)  # eight images of each prompt, as a sweep numbers them
    held = {"prompts": 0, "images": 0}
    for _ in range(100):
        values = rng.normal(size=40)[which] + 0.3 * rng.normal(size=len(which))
        for name, found in (("prompts", bootstrap(of_prompts(values, which))), ("images", bootstrap(values))):
            held[name] += found.low <= 0 <= found.high
    assert held["prompts"] >= 88
    assert held["images"] < 60


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-1e6, 1e6) | st.just(math.nan)), min_size=1))
def test_a_prompt_counts_by_the_mean_of_its_images(pairs):
    which, values = (np.array(side) for side in zip(*pairs, strict=True))
    groups = {p: [v for q, v in pairs if q == p and math.isfinite(v)] for p in sorted(set(which.tolist()))}
    expected = [sum(mine) / len(mine) for mine in groups.values() if mine]
    assert of_prompts(values, which) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_tidy_table_has_a_row_for_each_combination_of_its_axes():
    prompts, steps = {"prompt": ["a cat", "a dog"], "seed": [7, 8]}, {"step": range(3)}
    table = crossed(prompts, steps, weight=np.arange(6).reshape(2, 3) / 2, per_prompt=[[1], [None]])
    assert table == {
        "prompt": ["a cat"] * 3 + ["a dog"] * 3,
        "seed": [7] * 3 + [8] * 3,
        "step": [0, 1, 2] * 2,
        "weight": [0.0, 0.5, 1.0, 1.5, 2.0, 2.5],
        "per_prompt": [1, 1, 1, None, None, None],
    }
    assert stacked([table, table])["step"] == [0, 1, 2] * 4
