"""From stored shards to one line for each setting and policy: means with intervals, Frechet distances, seconds saved.

Shards are read one at a time. Features are only ever held as their sums, so that a set of any size takes the same room,
and the sums over all shards are those of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from shapefirst.metrics.frechet import Gaussian, Moments, frechet_distance
from shapefirst.statistics import Interval, bootstrap
from shapefirst.sweep.grid import FULL, Setting
from shapefirst.sweep.store import Store
from shapefirst.sweep.work import NOT_MEASURED

__all__ = ["Condition", "summarise"]


@dataclass(frozen=True)
class Condition:
    """One policy in one setting.

    Attributes:
        setting: How images were sampled.
        policy: In words, as a grid has it.
        text_steps: Guided steps.
        keep: What the other steps evaluate.
        evaluations: Of the denoiser for one image, had it been made alone.
        n: Images.
        metrics: Column -> mean with its interval over images. ``psnr`` is that of images that differ at all.
        frechet: Distance to the fully guided images of the same prompts and seeds.
        reference: Distance to the reference set, if one was given.
    """

    setting: Setting
    policy: str
    text_steps: int
    keep: str
    evaluations: float
    n: int
    metrics: Mapping[str, Interval]
    frechet: float | None
    reference: float | None = None

    @property
    def saved(self) -> float:
        """Share of the evaluations of full guidance that is saved."""
        return 1 - self.evaluations / (2 * self.setting.steps)


@dataclass
class _Gathered:
    """What was read of a condition."""

    text_steps: int
    keep: str
    evaluations: float
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    moments: Moments | None = None


def summarise(
    store: Store,
    reference: Callable[[Setting], Moments | Gaussian] | None = None,
    on_shard: Callable[[int], None] = lambda count: None,
) -> list[Condition]:
    """Every condition that is stored, settings in the plan's order, the most evaluations last.

    Args:
        store: Of a sweep, finished or not.
        reference: Setting -> statistics of the images to compare with, in the features of the setting's model.
        on_shard: Told how many shards were read.

    Raises:
        ShapefirstError: Nothing is stored, a shard is damaged, or the reference has other features.
    """
    found: list[Condition] = []
    here: Setting | None = None
    gathered: dict[str, _Gathered] = {}
    for count, (setting, rows) in enumerate(_shards(store), start=1):
        if here not in (None, setting):
            found += _conditions(here, gathered, reference)
            gathered = {}
        here = setting
        _gather(rows, gathered)
        on_shard(count)
    if here is not None:
        found += _conditions(here, gathered, reference)
    return found


def _shards(store: Store) -> Iterator[tuple[Setting, Mapping[str, np.ndarray]]]:
    for table in store.tables():
        rows = {
            name: table[name].to_numpy() if name != "features" else _matrix(table[name]) for name in table.column_names
        }
        first = {name: rows[name][0] for name in ("model", "sampler", "steps", "guidance_scale")}
        yield (
            Setting(str(first["model"]), str(first["sampler"]), int(first["steps"]), float(first["guidance_scale"])),
            rows,
        )


def _matrix(column: object) -> np.ndarray:
    """(n, d) from a column of lists of d numbers."""
    chunks = column.combine_chunks()  # type: ignore[attr-defined]
    return np.asarray(chunks.flatten().to_numpy(zero_copy_only=False)).reshape(len(chunks), -1)


def _gather(rows: Mapping[str, np.ndarray], gathered: dict[str, _Gathered]) -> None:
    for policy in dict.fromkeys(rows["policy"]):
        mine = rows["policy"] == policy
        one = gathered.get(policy)
        if one is None:
            first = int(np.argmax(mine))
            one = gathered[policy] = _Gathered(
                int(rows["text_steps"][first]), str(rows["keep"][first]), float(rows["evaluations"][first])
            )
        for name, values in rows.items():
            if name not in NOT_MEASURED:
                one.values.setdefault(name, []).append(np.asarray(values[mine], dtype=np.float64))
        moments = Moments.of(rows["features"][mine])
        one.moments = moments if one.moments is None else one.moments + moments


def _conditions(
    setting: Setting | None,
    gathered: Mapping[str, _Gathered],
    reference: Callable[[Setting], Moments | Gaussian] | None,
) -> list[Condition]:
    assert setting is not None
    against = reference(setting) if reference else None
    full = gathered[FULL].moments if FULL in gathered else None
    found = []
    for policy, one in gathered.items():
        columns = {name: np.concatenate(values) for name, values in one.values.items()}
        metrics = {name: bootstrap(x) for name, x in columns.items() if np.isfinite(x).sum() > 1}
        enough = one.moments is not None and one.moments.count > 1
        found.append(
            Condition(
                setting,
                policy,
                one.text_steps,
                one.keep,
                one.evaluations,
                len(next(iter(columns.values()))),
                metrics,
                frechet_distance(one.moments, full) if enough and full is not None else None,
                frechet_distance(one.moments, against) if enough and against is not None else None,
            )
        )
    return sorted(found, key=lambda c: (c.evaluations, c.policy))
