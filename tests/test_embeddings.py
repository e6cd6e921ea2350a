"""Edits of prompt embeddings change the positions they name and nothing else."""

from __future__ import annotations

import pytest
import torch

from shapefirst.errors import ShapefirstError
from shapefirst.prompts.edits import blank, keep_only, noise, switch_eos
from shapefirst.prompts.tokens import Positions

L, D = 8, 400


def words(count):
    """A prompt of so many words."""
    return Positions((0,), tuple(range(1, count + 1)), (count + 1,), tuple(range(count + 2, L)))


@pytest.fixture
def a():
    return torch.randn(2, L, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def b():
    return torch.randn(2, L, D, generator=torch.Generator().manual_seed(1))


def test_switching_all_eos_of_prompts_of_one_length_takes_the_same_places(a, b):
    switched = switch_eos(a, b, [words(3)] * 2, [words(3)] * 2)
    assert torch.equal(switched[:, :4], a[:, :4])
    assert torch.equal(switched[:, 4:], b[:, 4:])


def test_the_first_eos_becomes_the_others_first_whatever_the_lengths(a, b):
    switched = switch_eos(a, b, [words(2), words(4)], [words(4), words(1)])
    assert torch.equal(switched[0, :3], a[0, :3])
    assert torch.equal(switched[0, 3:6], b[0, 5:8])
    assert torch.equal(switched[0, 6:], b[0, 7].expand(2, D))  # B has no more: its last one goes on
    assert torch.equal(switched[1, :5], a[1, :5])
    assert torch.equal(switched[1, 5:], b[1, 2:5])


def test_only_the_first_n_are_switched(a, b):
    at = [words(3)] * 2
    assert torch.equal(switch_eos(a, b, at, at, first=0), a)
    two = switch_eos(a, b, at, at, first=2)
    assert torch.equal(two[:, 4:6], b[:, 4:6])
    assert torch.equal(two[:, 6:], a[:, 6:])
    assert torch.equal(switch_eos(a, b, at, at, first=99), switch_eos(a, b, at, at))


def test_switching_with_itself_changes_nothing_and_no_edit_touches_its_input(a, b):
    at, before = [words(2), words(3)], a.clone()
    assert torch.equal(switch_eos(a, a, at, at), a)
    switch_eos(a, b, at, at)
    blank(a, [p.sem for p in at])
    noise(a, [p.sem for p in at], [0, 1])
    assert torch.equal(a, before)


def test_blank_and_keep_only_are_the_two_halves(a):
    places = [(1, 2), (5,)]
    gone, kept = blank(a, places), keep_only(a, places)
    assert torch.equal(gone + kept, a)
    assert not gone[0, 1:3].any()
    assert not gone[1, 5].any()
    assert (gone == 0).all(-1).sum() == 3


def test_noise_has_the_mean_and_variance_of_what_it_replaces(a):
    at = [(1, 2, 3), (4,)]
    shifted = 3 * a + 5
    noisy = noise(shifted, at, seeds=[0, 1])
    for row, places in enumerate(at):
        old, new = shifted[row, list(places)], noisy[row, list(places)]
        n = old.numel()
        assert abs(new.mean() - old.mean()) < 4 * old.std() / n**0.5
        assert abs(new.std() / old.std() - 1) < 4 / (2 * n) ** 0.5
        assert abs(torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))[0, 1]) < 4 / n**0.5
    rest = [i for i in range(L) if i not in at[0]]
    assert torch.equal(noisy[0, rest], shifted[0, rest])


def test_a_seed_gives_the_same_noise_in_any_batch(a):
    both = noise(a, [(1, 2), (3,)], seeds=[7, 8])
    assert torch.equal(both[1:], noise(a[1:], [(3,)], seeds=[8]))
    assert torch.equal(both[:1], noise(a[:1], [(2, 1)], seeds=[7]))
    assert not torch.equal(both, noise(a, [(1, 2), (3,)], seeds=[9, 8]))


def test_half_precision_stays(a, b):
    half, at = a.bfloat16(), [words(2)] * 2
    places = [p.sem for p in at]
    edits = (switch_eos(half, b.bfloat16(), at, at), blank(half, places), noise(half, places, [0, 1]))
    assert {edit.dtype for edit in edits} == {torch.bfloat16}


def test_no_places_no_edit(a):
    assert torch.equal(blank(a, [(), ()]), a)
    assert torch.equal(noise(a, [(), ()], [0, 1]), a)
    assert not keep_only(a, [(), ()]).any()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a, b: switch_eos(a, b[:1], [words(2)] * 2, [words(2)]), "different shape"),
        (lambda a, b: switch_eos(a, b, [words(2)] * 2, [words(2)]), "2 prompts but places in 1"),
        (lambda a, b: switch_eos(a, b, [words(2)] * 2, [words(2)] * 2, first=-1), "at least 0"),
        (lambda a, b: blank(a, [(1,)]), "2 prompts but places in 1"),
        (lambda a, b: keep_only(a, [(1,), (L,)]), f"no token position {L}"),
        (lambda a, b: noise(a, [(1,), (1,)], seeds=[0]), "1 seeds"),
    ],
)
def test_what_does_not_fit_is_refused(a, b, edit, message):
    with pytest.raises(ShapefirstError, match=message):
        edit(a, b)
