"""torch.compile before, within and after a block: no graph is broken, and none is made beyond the pipeline's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from laws import K, own
from test_matrix import _small_layers, counted, denoisers, error  # noqa: F401
from test_threads import in_a_thread
from tiny import Tiny

from shapefirst.errors import ShapefirstError
from shapefirst.guidance.blocks import apply, guide, text_until

SD, SD3, WAN = "StableDiffusionPipeline", "StableDiffusion3Pipeline", "WanPipeline"


class Counting(list):  # type: ignore[type-arg]
    """A backend that keeps its graphs and runs them as they are."""

    def __call__(self, graph: Any, _: Any) -> Any:
        self.append(graph)
        return graph.forward


@pytest.fixture
def graphs() -> Iterator[Counting]:
    yield Counting()
    torch.compiler.reset()


def small(name: str) -> Tiny:
    """Of one block, which takes half of the time to compile."""
    row = own(name)
    if name == SD3:
        row.pipe.transformer.transformer_blocks = row.pipe.transformer.transformer_blocks[-1:]
    return row


def assigned(row: Tiny, **options: Any) -> None:
    row.pipe.register_modules(**{row.denoisers[0]: torch.compile(denoisers(row)[0], **options)})


def in_place(row: Tiny, **options: Any) -> None:
    denoisers(row)[0].compile(**options)


def forward_alone(row: Tiny, **options: Any) -> None:
    (denoiser,) = denoisers(row)
    denoiser.forward = torch.compile(denoiser.forward, **options)


def blocks(row: Tiny, **options: Any) -> None:
    denoisers(row)[0].compile_repeated_blocks(**options)


@pytest.mark.parametrize(
    ("compiles", "name", "stock_graphs", "all_graphs"),
    [
        *((compiles, SD3, 1, 2) for compiles in (in_place, forward_alone)),  # of 2B rows, and of B
        *((compiles, WAN, 1, 1) for compiles in (assigned, blocks)),  # B rows in every call
        (blocks, SD, 1, 2),
    ],
)
def test_a_compiled_denoiser(graphs, compiles, name, stock_graphs, all_graphs):
    row = small(name)
    stock = row()
    with text_until(row.pipe, K):
        dropped = row()
    with guide(row.pipe, "steps:0+1+3"):
        skipped = row()
    compiles(row, backend=graphs, fullgraph=True)
    assert error(row(), stock) < 1e-6
    assert len(graphs) == stock_graphs
    for _ in range(2):
        with guide(row.pipe, "full"):
            assert error(row(), stock) < 1e-6
        with guide(row.pipe, "steps:0+1+3") as evaluations:
            assert error(row(), skipped) < 1e-6
        assert evaluations.calls == evaluations.asked_calls // 2
        with text_until(row.pipe, K) as evaluations:
            assert error(row(), dropped) < 1e-6
        assert evaluations.rows == evaluations.asked * 3 // 4
    assert error(row(), stock) < 1e-6
    assert len(graphs) == all_graphs


@pytest.mark.parametrize("compiles", [assigned, in_place])
def test_a_denoiser_that_is_compiled_while_a_policy_is_on_it(graphs, compiles):
    row = small(SD3)
    stock = row()
    with text_until(row.pipe, K):
        expected = row()
    handle = apply(row.pipe, f"paper:{K}")
    compiles(row, backend=graphs, fullgraph=True)
    for times in (1, 2):
        assert error(row(), expected) < 1e-6
        assert handle.evaluations.rows == times * 18
    handle.remove()
    assert error(row(), stock) < 1e-6
    with text_until(row.pipe, K) as evaluations:
        assert error(row(), expected) < 1e-6
    assert evaluations.rows == 18
    assert len(graphs) == 2


def test_two_threads_on_one_compiled_pipeline_are_refused(graphs):
    row = small(SD3)
    in_place(row, backend=graphs)
    refused = []

    def meanwhile(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            with pytest.raises(ShapefirstError, match="Two threads run this"):
                in_a_thread(row)
            refused.append(step)
        return tensors

    with text_until(row.pipe, K):
        row(callback_on_step_end=meanwhile)
    assert refused == [1]
