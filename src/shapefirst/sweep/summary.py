"""From stored shards to one line for each setting and policy: means and Frechet distances with their intervals.

Shards are read one at a time. Features are only ever held as their sums, so that a set of any size takes the same room,
and the sums over all shards are those of one pass. They are kept for ten groups of prompts: a distance that is taken
without each of them in turn has an interval (the jackknife). All policies of a setting leave out the same prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import numpy as np

from shapefirst.errors import ShapefirstError
from shapefirst.measure.frechet import Gaussian, Moments, frechet_distance
from shapefirst.measure.intervals import ANY, POSITIVE, SHARE, SIGNED, Interval, Range, bootstrap, jackknife, of_prompts
from shapefirst.sweep.grid import FULL, Setting
from shapefirst.sweep.rows import FEATURES, NOT_MEASURED, arrays_of
from shapefirst.sweep.store import Store

__all__ = ["PolicySummary", "Reference", "SweepSummary", "summarise"]

GROUPS: Final = 10
#: Column -> what its mean cannot leave, which an interval of few images would.
RANGES: Final = {
    "l1": SHARE,
    "psnr": POSITIVE,
    "ssim": SIGNED,
    "similarity": SIGNED,
    "clipscore": Range(-100.0, 100.0),
    "judge": SHARE,
    "vqa": SHARE,
    "vlm": Range(1.0, 5.0),
}
WIDEST: Final = 768  # numbers in a feature; with more, an interval would take minutes and gigabytes


@dataclass(frozen=True)
class PolicySummary:
    """One policy in one setting.

    Attributes:
        setting: How images were sampled.
        policy: In words, as a grid has it.
        text_steps: Guided steps, on average over the images.
        keep: What the other steps evaluate.
        features: What the Frechet distances are taken of.
        evaluations: Of the denoiser for one image, had it been made alone; on average over the images.
        n: Images.
        metrics: Column -> mean with its interval over prompts, each of which may have several images. ``psnr`` is that
            of images that differ at all.
        frechet: Distance to the fully guided images of the same prompts and seeds; its interval is nan where features
            are wide.
        reference: Distance to the reference set, if one was given, which itself is taken as it is.
        over_full: That distance over the one of the fully guided images.
    """

    setting: Setting
    policy: str
    text_steps: float
    keep: str
    features: str
    evaluations: float
    n: int
    metrics: Mapping[str, Interval]
    frechet: Interval | None
    reference: Interval | None = None
    over_full: Interval | None = None

    @property
    def saved(self) -> float:
        """Share of the evaluations of full guidance that is saved."""
        return 1 - self.evaluations / self.setting.fully_guided


@dataclass(frozen=True)
class Reference:
    """What images are compared with besides the fully guided ones.

    Attributes:
        name: For the head of a column.
        title: In words, with the number of images.
        statistics: Setting -> the reference set's, in the features of the setting's model.
    """

    name: str
    title: str
    statistics: Callable[[Setting], Moments | Gaussian]


@dataclass(frozen=True)
class SweepSummary:
    """What is stored of a sweep, finished or not.

    Attributes:
        conditions: Settings in the plan's order, the most evaluations last.
        shards: How many.
        machine: Where they were made.
        seconds: That they took, added up.
        left_out: Sentences, one on each file among the shards that does not count.
    """

    conditions: tuple[PolicySummary, ...]
    shards: int
    machine: str
    seconds: float
    left_out: tuple[str, ...] = ()


@dataclass
class _Gathered:
    """What was read of a condition."""

    keep: str
    features: str
    text_steps: list[np.ndarray] = field(default_factory=list)
    evaluations: list[np.ndarray] = field(default_factory=list)
    prompts: list[np.ndarray] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    groups: dict[int, Moments] = field(default_factory=dict)


def summarise(
    store: Store,
    reference: Reference | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> SweepSummary:
    """Every condition that is stored.

    Args:
        store: Of a sweep, finished or not.
        reference: What to compare with besides the fully guided images.
        on_step: Told of each shard that was read, and of each condition whose distances were taken.

    Raises:
        ShapefirstError: Nothing is stored, or nothing that is whole, or the reference has other features.
    """
    found: list[PolicySummary] = []
    left_out: list[str] = [f"{name!r} among its shards is none of them" for name in store.strays()]
    machines: dict[str, None] = {}
    count, seconds = 0, 0.0
    shards, names = store.plan(), store.done()
    for setting, mine in groupby((shard for shard in shards if shard.name in names), key=lambda shard: shard.setting):
        gathered: dict[str, _Gathered] = {}
        first: tuple[Any, str] | None = None
        for shard in mine:
            on_step()
            try:
                table, how = store.read(shard)
                # What is added up must be of one kind.
                kind = (table.schema.remove_metadata(), how.features)
                if kind != (first := first or kind):
                    raise ShapefirstError(
                        f"The shard {shard.name} has other columns or features than those before it: delete its file "
                        "and run the sweep again."
                    )
            except ShapefirstError as error:
                left_out.append(str(error))
                continue
            _gather(arrays_of(table), how.features, gathered, len(shards.prompts))
            machines[how.machine] = None
            count += 1
            seconds += sum(how.seconds.values())
        if gathered:
            found += _conditions(setting, gathered, reference, on_step)
    if not found:
        none = f"No shard of {store.url!r} is done yet: run `shapefirst sweep run --out {store.url}`."
        raise ShapefirstError(left_out[-1] if left_out and names else none)
    return SweepSummary(tuple(found), count, ", ".join(machines), seconds, tuple(left_out))


def _gather(rows: Mapping[str, np.ndarray], title: str, gathered: dict[str, _Gathered], prompts: int) -> None:
    features = rows[FEATURES]
    group = rows["image"] % prompts % (GROUPS if features.shape[1] <= WIDEST else 1)
    for policy in dict.fromkeys(rows["policy"]):
        mine = rows["policy"] == policy
        one = gathered.get(policy)
        if one is None:
            one = gathered[policy] = _Gathered(str(rows["keep"][mine][0]), title)
        one.text_steps.append(rows["text_steps"][mine])
        one.evaluations.append(rows["evaluations"][mine])
        one.prompts.append(rows["image"][mine] % prompts)
        for name, values in rows.items():
            if name not in NOT_MEASURED:
                one.values.setdefault(name, []).append(np.asarray(values[mine], dtype=np.float64))
        for g in map(int, np.unique(group[mine])):
            part = Moments.of(features[mine & (group == g)])
            one.groups[g] = one.groups[g] + part if g in one.groups else part


def _conditions(
    setting: Setting,
    gathered: Mapping[str, _Gathered],
    reference: Reference | None,
    on_step: Callable[[], None],
) -> list[PolicySummary]:
    against = reference.statistics(setting) if reference else None
    sums = {policy: _with_each_left_out(one.groups) for policy, one in gathered.items()}
    to_full: dict[str, list[float]] = {}
    to_reference: dict[str, list[float]] = {}
    for policy, mine in sums.items():
        on_step()
        if mine[0].count < 2:
            continue
        if FULL in sums:
            to_full[policy] = [frechet_distance(full, part) for full, part in zip(sums[FULL], mine, strict=True)]
        if against is not None:
            to_reference[policy] = [frechet_distance(against, part) for part in mine]
    of_full = to_reference.get(FULL, [])
    found = []
    for policy, one in gathered.items():
        columns = {name: np.concatenate(values) for name, values in one.values.items()}
        means = {name: of_prompts(x, np.concatenate(one.prompts)) for name, x in columns.items()}
        metrics = {name: bootstrap(x, within=_range(name)) for name, x in means.items() if len(x) > 1}
        n = sums[policy][0].count
        over_full = None
        if of_full and all(of_full):
            ratios = [mine / full for mine, full in zip(to_reference[policy], of_full, strict=True)]
            over_full = jackknife(ratios[0], ratios[1:], n, within=POSITIVE)
        found.append(
            PolicySummary(
                setting,
                policy,
                float(np.concatenate(one.text_steps).mean()),
                one.keep,
                one.features,
                float(np.concatenate(one.evaluations).mean()),
                n,
                metrics,
                _distance(to_full.get(policy), n),
                _distance(to_reference.get(policy), n),
                over_full,
            )
        )
    return sorted(found, key=lambda c: (c.evaluations, c.policy))


def _range(name: str) -> Range:
    return RANGES.get(name.partition("-")[0], ANY)


def _with_each_left_out(groups: Mapping[int, Moments]) -> list[Moments]:
    """Of all images; then, where enough are left, without each group."""
    first, *rest = parts = [groups[g] for g in sorted(groups)]
    whole = sum(rest, start=first)
    without = [whole - part for part in parts]
    return [whole, *without] if all(part.count > 1 for part in without) else [whole]


def _distance(whole_then_without: list[float] | None, n: int) -> Interval | None:
    if whole_then_without is None:
        return None
    return jackknife(whole_then_without[0], whole_then_without[1:], n, within=POSITIVE)
