"""What holds of every policy on any row of ``tests/tiny``, whatever has been done to its pipeline.

The references are those of ``tests/test_matrix.py``: the pipeline's own call, with hooks that know nothing of ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from test_matrix import GUIDED, counted, error, extrapolated, text_dropped, traces
from tiny import PIPELINES, STEPS, Tiny

from shapefirst.guidance.blocks import Evaluations, guide, text_until

__all__ = ["check_counts", "check_laws", "own"]

Generate = Callable[[], list[torch.Tensor]]
K = STEPS // 2


def own(name: str) -> Tiny:
    """A row whose pipeline shares no part with others, so that a test may do to it what it likes."""
    row = PIPELINES[name]()
    return replace(row, pipe=copy.deepcopy(row.pipe))


def check_counts(evaluations: Evaluations, seen: dict[str, int]) -> None:
    assert (evaluations.rows, evaluations.calls) == (seen["rows"], seen["calls"])


def check_laws(row: Tiny, generate: Generate | None = None, *, tolerance: float = 1e-4, smooth: bool = True) -> None:
    """Full guidance is the stock call bit for bit; text in half of the steps and skipped calls are their equations.

    Args:
        row: A row whose branches are known.
        generate: Another call than the row's own.
        tolerance: What rounding may make of a batch of another size.
        smooth: Whether nothing changes half-way, after which extrapolation would begin anew.
    """
    generate = row if generate is None else generate
    with counted(row) as whole:
        stock = generate()
    before = traces(row)

    with text_until(row.pipe, K) as evaluations, counted(row) as seen:
        made = generate()
    with text_dropped(row, K):
        expected = generate()
    assert error(made, expected) < tolerance < error(expected, stock)
    check_counts(evaluations, seen)
    assert seen["rows"] < whole["rows"] == evaluations.asked

    with guide(row.pipe, "steps:0+1+3") as evaluations, counted(row) as seen:
        made = generate()
    check_counts(evaluations, seen)
    if smooth:
        assert seen["calls"] == whole["calls"] * len(GUIDED) // STEPS
        with extrapolated(row, GUIDED):
            expected = generate()
        assert error(made, expected) < tolerance < error(expected, stock)
    else:
        assert seen["calls"] < whole["calls"]

    with guide(row.pipe, "full") as evaluations:
        assert error(generate(), stock) == 0  # and nothing of the others is left in the pipeline
    check_counts(evaluations, whole)
    assert traces(row) == before
