"""What public functions are given is held against their signatures: what is no such thing is refused in a sentence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from fuzz.arguments import cases, fault_of, targets
from fuzz.rooms import ABSENT
from hypothesis import given
from hypothesis import strategies as st

from shapefirst.errors import ShapefirstError
from shapefirst.signatures import Axes, From, Name, guarded


@pytest.fixture
def found(make_pipe: Any, tmp_path: Path) -> Any:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    return targets(make_pipe(), tmp_path)


def test_public_functions_work_as_they_are_called_here(found):
    for name, (call, arguments) in found.items():
        if name not in ("load", "read_policy", *ABSENT):  # of what there is not
            call(**arguments)


@pytest.mark.filterwarnings("ignore")
def test_any_argument_is_right_or_refused_in_a_sentence(found):
    """What `python -m fuzz.arguments` calls."""
    faults = {case: fault_of(*found[case[0]], *case[1:]) for case in cases(found)}
    assert {case: fault for case, fault in faults.items() if fault} == {}


CASES: list[tuple[Any, list[Any], list[Any], str]] = [
    (int, [0, -5, np.int64(3)], [True, 0.0, "1", None, 2**63, 10**5000, torch.tensor(1)], "a whole number"),
    (float, [0, 1.5, np.float32(2)], [True, float("nan"), float("inf"), "1", 10**400], "a finite number"),
    (bool, [True], [1, None, "True"], "True or False"),
    (Annotated[int, From(1)], [1, 10**9], [0, -1, 1.0], "a whole number from 1 up"),
    (Annotated[float, From(0, 1)], [0, 1, 0.5], [-0.1, 1.1], "a finite number from 0 to 1"),
    (Name, ["a" * 200], ["a" * 201, b"a"], "a text of at most 200 characters"),
    (int | None, [1, None], ["", False], "a whole number or None"),
    (Literal["null", "text"], ["null"], ["", None, np.zeros(3)], '"null" or "text"'),
    (Sequence[int], [[1], (), range(3)], ["12", b"12", {1}, [0.5], [[1]], 5], "a list, each of it a whole number"),
    (Collection[int], [{1, 2}, [3], np.arange(3)], ["a", iter([1]), torch.zeros(())], "a list"),
    (Iterable[str], [["a"], iter(["a"])], ["a", [1], 5], "a list, each of it a text"),
    (tuple[int, int | None], [(1, None), [1, 2]], [(1,), 1, "ab", (None, 1)], "a pair"),
    (tuple[int, ...], [(), (1, 2)], [("a",), 1], "a list, each of it a whole number"),
    (Mapping[str, int], [{}, {"a": 1}], [{1: 1}, {"a": "b"}, []], "a mapping of a text to a whole number"),
    (Annotated[torch.Tensor, Axes("B L D")], [torch.zeros(1, 2, 3)], [torch.zeros(3), torch.zeros(0, 1, 1)], "a T"),
    (Annotated[torch.Tensor, Axes("B")], [torch.zeros(1).half()], [torch.ones(1).int(), torch.ones(1).to("meta")], "a"),
    (Path, [Path("x")], ["x", None], "a Path"),
    (Any, [None, object()], [], ""),
]


@pytest.mark.parametrize(("hint", "right", "wrong", "words"), CASES, ids=[str(case[0]) for case in CASES])
def test_an_annotation_is_the_check(hint, right, wrong, words):
    def function(value: Any) -> Any:
        return value

    function.__annotations__["value"] = hint
    call = guarded(function)
    for value in right:
        assert call(value) is value
        assert call(value=value) is value
    for value in wrong:
        with pytest.raises(ShapefirstError, match=rf"^value= of .*function\(\) must be {words}.*, not ") as caught:
            call(value)
        assert len(str(caught.value)) < 350


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_what_passes_is_of_its_kind(value):
    def function(value: list[int] | str | None) -> Any:
        return value

    def is_right() -> bool:
        whole = isinstance(value, list) and all(type(one) is int and abs(one) < 2**63 for one in value)
        return value is None or isinstance(value, str) or whole

    try:
        assert guarded(function)(value) is value
        assert is_right()
    except ShapefirstError:
        assert not is_right()


def test_names_of_arguments_are_pythons_matter():
    @guarded
    def function(value: int) -> int:
        return value

    for call in (function, lambda: function(1, 2), lambda: function(other=1)):
        with pytest.raises(TypeError, match="function"):
            call()
