"""Latency: policies in turns with the stock pipeline, the denoiser's FLOPs by hand, and the tables that say both."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import Attention

from shapefirst.errors import ShapefirstError
from shapefirst.families.layout import denoiser_of
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sweep import stopwatch
from shapefirst.sweep.grid import Setting
from shapefirst.sweep.latency import Latency, Parts, Timing, calls_table, parts_table, read_latencies, updated
from shapefirst.sweep.stopwatch import calls, parts_of, time_policies, whole_call

LATENCY = Latency(
    Setting("pocket", "ddim", 10, 4.0),
    "a machine",
    (
        Timing(1, "paper:5", 0.25, (0.8, 0.6, 0.7), (1.0, 1.0, 1.0)),
        Timing(4, "paper:5", 0.25, (3.0, 3.0, 3.0), (4.0, 4.0, 4.0)),
        Timing(1, "full", 0.0, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        Timing(4, "full", 0.0, (4.2, 4.0, 3.8), (4.0, 4.0, 4.0)),
    ),
    (Parts(1, 0.01, 0.2, 0.1, 0.005, 2e9), Parts(4, 0.02, 0.8, 0.4, 0.02, 2e9)),
)


def test_timings_alternate_with_the_stock_pipeline(make_pipe):
    pipe = make_pipe()
    said = []
    timings = time_policies(
        pipe,
        whole_call(pipe, ["a cat"], steps=3, guidance_scale=5.0, batch=2),
        {"paper:1": TextSchedule.until(1), "full": TextSchedule.always()},
        steps=3,
        batch=2,
        rounds=2,
        on_call=lambda: said.append(1),
    )
    assert [(t.policy, t.batch, len(t.seconds), len(t.stock)) for t in timings] == [
        ("paper:1", 2, 2, 2),
        ("full", 2, 2, 2),
    ]
    assert len(said) == 2 + 2 * (2 + 2)
    assert timings[0].evaluations_saved == pytest.approx(1 / 3)
    assert all(low <= middle <= high for low, middle, high in (t.saved for t in timings))
    assert json.dumps(timings[0].seconds)


def test_each_policy_runs_once_a_round_close_to_calls_of_the_stock_pipeline(monkeypatch):
    ran, now = [], ["stock"]

    @contextmanager
    def guide(pipe, schedule):
        now[0] = schedule
        yield SimpleNamespace(saved=0.25)
        now[0] = "stock"

    monkeypatch.setattr(stopwatch, "guide", guide)
    monkeypatch.setattr(stopwatch, "seconds_of", lambda sample: ran.append(now[0]) or float(len(ran) - 1))
    policies = {f"paper:{k}": TextSchedule.until(k) for k in range(4)}
    timings = time_policies(SimpleNamespace(scheduler=None), None, policies, steps=8, batch=1, rounds=3)
    assert len(ran) == calls(4, 3) == 2 + 3 * 7
    rounds = [tuple(ran[start : start + 7]) for start in (2, 9, 16)]
    for one in rounds:
        assert [call == "stock" for call in one] == [True, False, False, False, True, False, True]
        assert set(one) == {"stock", *policies.values()}
    assert len(set(rounds)) > 1
    stock = [place for place, call in enumerate(ran) if call == "stock"]
    for timing in timings:
        assert [ran[int(place)] for place in timing.seconds] == [policies[timing.policy]] * 3
        around = [(max(s for s in stock if s < t), min(s for s in stock if s > t)) for t in timing.seconds]
        assert list(timing.stock) == [sum(both) / 2 for both in around]


def flops_by_hand(module, inputs, output):
    """Of one layer, a multiplication and an addition counted as two; of attention, its two products over positions."""
    if isinstance(module, torch.nn.Conv2d):
        return 2 * output.numel() * module.weight[0].numel()
    if isinstance(module, torch.nn.Linear):
        return 2 * output.numel() * module.in_features
    return 0


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_the_denoiser_s_flops_are_those_counted_layer_by_layer(make_pipe, kind):
    pipe = make_pipe(kind)
    counted = []

    def layer(module, inputs, output):
        counted.append(flops_by_hand(module, inputs, output))

    def attention(module, inputs, options, output):
        queries = output if output.ndim == 3 else output.flatten(2).mT
        context = options.get("encoder_hidden_states")
        keys = queries if context is None else context
        counted.append(2 * 2 * len(queries) * queries.shape[1] * keys.shape[1] * module.inner_dim)

    hooks = [module.register_forward_hook(layer) for module in denoiser_of(pipe).modules()]
    hooks += [
        module.register_forward_hook(attention, with_kwargs=True)
        for module in denoiser_of(pipe).modules()
        if isinstance(module, Attention)
    ]
    calls = []
    hooks.append(denoiser_of(pipe).register_forward_hook(lambda *_: calls.append(1)))
    parts = parts_of(pipe, ["a cat"], batch=2, rounds=1)
    for hook in hooks:
        hook.remove()
    one, both = 2, 4  # rows of an evaluation: one for the count; warm-up and round of a guided step and of one branch
    assert len(calls) == 5
    assert parts.flops == pytest.approx(sum(counted) / (one + 2 * both + 2 * one))


def test_a_table_has_seconds_evaluations_and_flops_beside_each_other():
    table = calls_table(LATENCY)
    assert table.columns == (
        "policy",
        "evaluations",
        "saved",
        "GFLOPs an image",
        "batch 1: s an image",
        "batch 4: s an image",
    )
    assert table.rows[-1] == ("stock pipeline", "20", "–", "40", "1.00", "1.00")
    assert table.rows[0] == (
        "paper:5",
        "15",
        "25%",
        "30",
        "0.70, 30% saved (20% to 40%)",
        "0.75, 25% saved (25% to 25%)",
    )
    assert parts_table(LATENCY).rows[1] == ("4", "20.0 ms", "800.0 ms", "400.0 ms", "20.0 ms", "2")


def test_latencies_are_read_back_as_they_were_stored():
    assert read_latencies(json.dumps([asdict(LATENCY)])) == [LATENCY]
    with pytest.raises(ShapefirstError, match="measures them anew"):
        read_latencies('[{"setting": 1}]')


def test_what_is_measured_later_stays_beside_what_was_measured_before():
    again = Timing(4, "paper:5", 0.25, (2.0, 2.0), (4.0, 4.0))
    other = Timing(2, "paper:3", 0.35, (2.0, 2.0), (4.0, 4.0))
    later = replace(LATENCY, timings=(again, other), parts=(Parts(2, 0.01, 0.4, 0.2, 0.01, 2e9),))
    both = updated(LATENCY, later)
    assert set(both.timings) == {*LATENCY.timings[:1], *LATENCY.timings[2:], again, other}
    assert [parts.batch for parts in both.parts] == [1, 2, 4]
    assert updated(replace(LATENCY, machine="another"), later) == later
    rows = {row[0]: row for row in calls_table(both).rows}
    assert rows["paper:3"] == ("paper:3", "13", "35%", "26", "–", "1.00, 50% saved (50% to 50%)", "–")
    assert "medians of 2 to 3 rounds" in calls_table(both).caption
