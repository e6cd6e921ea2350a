"""Pipelines of every kind under every kind of policy, each held against its own stock call with hooks of this file.

What stands for a dropped or an extrapolated prediction is put into the stock call's outputs at full cost, from the
equations; what really runs is counted inside of the networks.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import naive
import pytest
import torch
from tiny import PIPELINES, STEPS, Tiny

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families import family_of
from shapefirst.families.noise import adds_noise, clean, levels
from shapefirst.guidance.blocks import guide, text_until
from shapefirst.guidance.stochastic import clean_of, output_of

GUIDED = {0, 1, 3}
COUNTED = (f"text:{STEPS // 2}", "budget:0.84", "tol:0.1")


@pytest.fixture(autouse=True)
def _small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    # In layers this small oneDNN takes longer to choose how to convolve than it takes to convolve.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def denoisers(row: Tiny) -> list[torch.nn.Module]:
    return [getattr(row.pipe, name) for name in row.denoisers]


def error(made: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    return max(naive.error(a.float(), b.float()) for a, b in zip(made, expected, strict=True))


@contextmanager
def counted(row: Tiny) -> Iterator[Counter[str]]:
    """The rows that really enter each denoiser, and its calls."""
    seen: Counter[str] = Counter()

    def see(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["rows"] += len(args[0] if args else next(iter(kwargs.values())))
        seen["calls"] += 1

    with ExitStack() as stack:
        for denoiser in denoisers(row):
            stack.callback(denoiser.register_forward_pre_hook(see, with_kwargs=True).remove)
        for name in row.beside:
            besides = row.pipe
            for part in name.split("."):
                besides = besides[int(part)] if part.isdigit() else getattr(besides, part)
            stack.callback(besides.register_forward_pre_hook(lambda *_: seen.update(["beside"])).remove)
        yield seen


class Calls:
    """Tells a hook on the denoisers the step of their call and its place in the step.

    Where some steps have more calls than others, by how often the scheduler has stepped.
    """

    def __init__(self, row: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.at = 0, (-1, 0)
        self.each = None if row.varies else row.calls
        self.calls = 0
        if self.each is not None:
            return
        scheduler, stepped = row.pipe.scheduler, type(row.pipe.scheduler).step

        @functools.wraps(stepped)  # pipelines look at what it takes
        def step(self_: Any, *args: Any, **kwargs: Any) -> Any:
            self.steps += self_ is scheduler
            return stepped(self_, *args, **kwargs)

        monkeypatch.setattr(type(scheduler), "step", step)

    def next(self) -> tuple[int, int]:
        self.calls += 1
        if self.each is not None:
            step, place = divmod(self.calls - 1, self.each)
            self.at = step % STEPS, place
            return self.at
        step, place = self.at
        self.at = (step, place + 1) if step == self.steps else (self.steps, 0)
        return self.at


def changed(out: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(out, torch.Tensor):
        return change(out) if out.is_floating_point() else out
    if isinstance(out, dict):
        return type(out)(**{name: changed(value, change) for name, value in out.items()})
    return type(out)(changed(value, change) for value in out) if isinstance(out, (tuple, list)) else out


@contextmanager
def text_dropped(row: Tiny, k: int) -> Iterator[None]:
    """Within the block the stock call has the text in the first k steps alone."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        calls = Calls(row, patch)
        hook = _drop_rows(row, calls, k) if row.way == "one batch" else None
        for denoiser in denoisers(row):
            if hook is not None:
                stack.callback(denoiser.register_forward_hook(hook, with_kwargs=True).remove)
            else:
                before = _swap_conditions(row, calls, lambda step: step < k)
                stack.callback(denoiser.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(denoiser.register_forward_hook(_repeat_null(row, calls, k)).remove)
        yield


@contextmanager
def difference_extrapolated(row: Tiny, guided: set[int]) -> Iterator[None]:
    """Within the block the stock call has, in steps without text, the null branch's prediction and the difference of
    the two as a line through its last two values. It is for two calls a step, the text's first."""
    seen: dict[float, tuple[torch.Tensor, torch.Tensor]] = {}
    now: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        before, calls = _swap_conditions(row, Calls(row, patch), guided.__contains__), Calls(row, patch)

        def hook(module: Any, _: Any, out: Any) -> Any:
            step, place = calls.next()
            u = levels(row.pipe.scheduler, row.pipe.scheduler.timesteps.tolist())[step]
            now.append(out[0])
            text = row.branches[place] == "text"
            if step in guided and not text:
                seen[u] = now[-2] - now[-1], now[-1]
            if step in guided or not text:
                return out
            last = list(seen)[-2:]
            made = out[0] + naive.polynomial(last, [seen[at][0] for at in last], u).to(out[0].dtype)
            return (made, *out[1:]) if isinstance(out, tuple) else type(out)(made)

        for denoiser in denoisers(row):
            stack.callback(denoiser.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(denoiser.register_forward_hook(hook).remove)
        yield


def _drop_rows(row: Tiny, calls: Calls, k: int) -> Any:
    """The prediction of the first branch without text stands for all that see it."""
    without = [branch for branch in row.branches if branch in ("null", "image")]
    base: list[torch.Tensor] = []  # of each of the outputs' tensors

    def rows_of(x: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(row.branches, x.chunk(len(row.branches)), strict=True))
        base.append(parts[without[0]])
        return torch.cat([parts[b] if b in without else parts[without[0]] for b in row.branches])

    def hook(_: Any, args: Any, kwargs: Any, out: Any) -> Any:
        step, place = calls.next()
        rows = len(args[0] if args else next(iter(kwargs.values())))
        if step < k or (not place and rows < len(row.branches) * len(row.images)):  # a run without guidance
            return out
        if place:  # skip-layer guidance: the text branch again, with layers left out
            again = iter(list(base))
            return changed(out, lambda x: next(again))
        base.clear()
        if isinstance(out[0], list):
            n = len(out[0]) // len(row.branches)
            at = row.branches.index(without[0]) * n
            return (out[0][at : at + n] * len(row.branches), *out[1:])
        return changed(out, rows_of)

    return hook


def _repeat_null(row: Tiny, calls: Calls, k: int) -> Any:
    """In steps without text the null branch's prediction stands for a third call's."""
    latest: list[Any] = []

    def hook(_: Any, __: Any, out: Any) -> Any:
        step, place = calls.at
        latest.append(latest[-1] if place >= len(row.branches) and step >= k else out)
        return latest[-1]

    return hook


LATEST: dict[str, dict[str, Any]] = {}


def _swap_conditions(row: Tiny, calls: Calls, guided: Callable[[int], bool]) -> Any:
    """The text's call is given what the null branch was given before, but for what moves from step to step."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return a.shape == b.shape and torch.equal(a, b)
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(map(same, a, b))
        return a is b or (not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor) and a == b)

    def before(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        step, place = calls.next()
        if place >= len(row.branches):
            return args, kwargs
        branch = row.branches[place]
        given = dict(kwargs)
        if branch == "text" and not guided(step):
            moved = {name for name, value in kwargs.items() if not same(value, LATEST["text"].get(name))}
            kwargs = {**LATEST["null"], **{name: kwargs[name] for name in moved}}
        LATEST[branch] = given
        return args, kwargs

    return before


@contextmanager
def extrapolated(row: Tiny, guided: set[int]) -> Iterator[None]:
    """Within the block each of the stock call's calls is a line through its last two guided steps in the others."""
    schedulers = {getattr(row.pipe, name): row.schedulers.get(name, "scheduler") for name in row.denoisers}
    seen: dict[Any, dict[float, list[torch.Tensor]]] = defaultdict(dict)
    began: dict[Any, int] = {}
    sizes: dict[Any, list[torch.Size]] = {}
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        calls = Calls(row, patch)
        for name in schedulers.values():  # UniPC corrects none of the steps, of which one soon is skipped
            if not row.copies:
                stack.enter_context(naive.uncorrected(getattr(row.pipe, name)))

        def hook(module: Any, args: Any, kwargs: Any, out: Any) -> Any:
            step, place = calls.next()
            scheduler = getattr(row.pipe, schedulers[module])
            all_levels = levels(scheduler, scheduler.timesteps.tolist())
            first_step = len(scheduler.timesteps) - STEPS if {"strength", "denoising_start"} & set(row.options) else 0
            first_step = getattr(scheduler, "begin_index", None) or first_step
            u, known = all_levels[step + first_step], seen[module, place]
            first = began.setdefault((module, place), step)
            latents = args[0] if args else next(iter(kwargs.values()))
            size = [x.shape for x in latents]
            if sizes.setdefault((module, place), size) != size:  # Flux.2 reads pictures in the first call alone
                known.clear()
                sizes[module, place], began[module, place], first = size, step, step
            noisy = adds_noise(scheduler, 0.0)
            p_q = (
                clean(scheduler, scheduler.timesteps.tolist()) if noisy and isinstance(latents, torch.Tensor) else None
            )
            scales = p_q[step + first_step] if p_q else None
            if step in guided or (first and len(known) < 2 - noisy):  # what begins later learns first
                known[u] = []
                held = (lambda x: x.clone()) if scales is None else (lambda x: clean_of(x.float(), latents, scales))
                return changed(out, lambda x: known[u].append(held(x)) or x)
            if noisy:  # the clean latents of the last guided step are held
                made = iter(known[list(known)[-1]])
                back = (lambda x: x) if scales is None else (lambda x: output_of(x, latents, scales))
                return changed(out, lambda x: back(next(made)).to(x.dtype))
            last = list(known)[-2:]
            made = iter(
                [naive.polynomial(last, list(pair), u) for pair in zip(*(known[at] for at in last), strict=True)]
            )
            return changed(out, lambda x: next(made).to(x.dtype))

        for denoiser in denoisers(row):
            stack.callback(denoiser.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def traces(row: Tiny) -> list[Any]:
    modules = [part for part in vars(row.pipe).values() if isinstance(part, torch.nn.Module)]
    return [(type(m).__mro__, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]


@pytest.mark.parametrize(("number", "name"), list(enumerate(PIPELINES)), ids=list(PIPELINES))
def test_the_matrix(number, name):
    """Dropped and extrapolated predictions on every row, and in turn one of the policies that are only counted."""
    row = PIPELINES[name]()
    images = row.images
    if row.refused:
        with pytest.raises(UnsupportedPipelineError, match=row.refused):
            guide(row.pipe, "budget:0.7")
        return
    with counted(row) as whole:
        stock = row(images)
    before = traces(row)

    k = STEPS // 2
    if row.way == "whole calls" and family_of(row.pipe).way == "whole calls":
        with pytest.raises(UnsupportedPipelineError, match="none can be dropped"):
            text_until(row.pipe, k)
    elif row.way == "whole calls":  # guidance is off
        with text_until(row.pipe, k) as evaluations, pytest.warns(UserWarning, match="no branch to drop"):
            assert error(row(images), stock) == 0
        assert evaluations.rows == whole["rows"]
    else:
        with text_until(row.pipe, k) as evaluations, counted(row) as seen:
            made = row(images)
        with text_dropped(row, k):
            expected = row(images)
        assert error(made, expected) < 1e-4 < error(expected, stock)
        assert (evaluations.rows, evaluations.calls) == (seen["rows"], seen["calls"])
        assert seen["rows"] < whole["rows"]
        if row.way == "two calls" and not row.varies:
            assert seen["calls"] == whole["calls"] - (STEPS - k)
        if row.way == "one batch":  # where rows are told apart
            with text_until(row.pipe, k):
                assert error(row(images[-1:]), [x.chunk(len(images))[-1] for x in made]) < 1e-4
        if row.way == "two calls" and len(row.denoisers) == 1 and "strength" not in row.options and not row.varies:
            with guide(row.pipe, "steps:0+1+3,keep=null") as evaluations, counted(row) as seen:
                made = row(images)
            with difference_extrapolated(row, GUIDED):
                assert error(made, row(images)) < 1e-4
            assert (evaluations.rows, evaluations.calls) == (seen["rows"], seen["calls"])
            assert row.varies or seen["calls"] == whole["calls"] - (STEPS - len(GUIDED))

    with guide(row.pipe, "steps:0+1+3") as evaluations, counted(row) as seen:
        made = row(images)
    with extrapolated(row, GUIDED):
        expected = row(images)
    assert error(made, expected) < 1e-4 < error(expected, stock)
    assert (evaluations.rows, evaluations.calls) == (seen["rows"], seen["calls"])
    if not row.varies and len(row.denoisers) == row.runs:  # what begins later learns first
        assert seen["calls"] == row.calls * row.runs * len(GUIDED)

    check_counted(row, COUNTED[number % len(COUNTED)], whole)
    with guide(row.pipe, "full") as evaluations:
        assert error(row(images), stock) == 0  # and nothing of the others is left in the pipeline
    assert evaluations.rows == evaluations.asked == whole["rows"]
    assert evaluations.calls == evaluations.asked_calls == whole["calls"]
    assert traces(row) == before


def check_counted(row: Tiny, policy: str, whole: Counter[str]) -> None:
    """What a policy is said to evaluate is what runs. Where calls are uneven, or have no branch, it is a budget."""
    uneven = row.varies or row.runs > 1 or len(row.denoisers) > 1
    if uneven or (row.way == "whole calls" and policy.startswith("text")):
        policy = "budget:0.84"
    takes_turns = len(row.denoisers) > row.runs and "num_inference_steps" not in row.options
    steps = {"num_inference_steps": 2 * STEPS} if takes_turns else {}  # each one's turn is a run of its own
    with guide(row.pipe, policy) as evaluations, counted(row) as seen:
        made = row(row.images, **steps)
    assert (evaluations.rows, evaluations.calls) == (seen["rows"], seen["calls"])
    assert all(x.isfinite().all() for x in made if x.is_floating_point())
    if policy.startswith("budget"):
        # Which steps have the further calls of skipped layers is not known beforehand: a budget counts steps there.
        further = len(row.images) if row.varies else 0
        assert 0.7 * evaluations.asked <= seen["rows"] <= 0.84 * evaluations.asked + further
    elif policy.startswith("text"):
        assert seen["rows"] < whole["rows"]
