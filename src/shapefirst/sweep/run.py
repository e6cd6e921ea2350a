"""A sweep's shards one after the other, or as Ray tasks: the same function does them, and stores what it made.

What is done stays done: a run begins with what is missing. A shard that fails is tried three times and then given up
with its reason, and the others go on. Where nothing can be written any more, or a model is not to be had, everything
stops.
"""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shapefirst.errors import (
    DeviceError,
    ModelError,
    PackageError,
    ShapefirstError,
    UnsupportedPipelineError,
    first_line,
)
from shapefirst.sweep.cluster import Cluster, TaskFailed
from shapefirst.sweep.grid import Shard, Shards
from shapefirst.sweep.store import CannotWrite, Store
from shapefirst.sweep.work import Worker, worker_for

__all__ = ["Outcome", "missing", "missing_evaluations", "run_here", "run_on_ray"]

TRIES: Final = 3
STOPPING: Final = (CannotWrite, DeviceError, ModelError, UnsupportedPipelineError)  # the next shard would meet them too


@dataclass(frozen=True)
class Outcome:
    """What became of a shard.

    Attributes:
        name: The shard's.
        evaluations: Of the denoiser, over its images.
        failed: Why it was given up; "" where it was not.
    """

    name: str
    evaluations: int = 0
    failed: str = ""


def missing(shards: Iterable[Shard], store: Store) -> Iterator[Shard]:
    """The shards that are not done yet, in order; one whose file is damaged is done again."""
    done = store.done()
    return (shard for shard in shards if shard.name not in done or not _is_whole(shard, store))


def _is_whole(shard: Shard, store: Store) -> bool:
    try:
        store.read(shard)
    except ShapefirstError:
        return False
    return True


def missing_evaluations(shards: Shards, store: Store) -> dict[str, int]:
    """Of the denoiser, for each shard that is not done yet, by name."""
    each = {setting: shards.evaluations(setting) for setting in shards.settings}
    return {shard.name: each[shard.setting] * len(shard.prompts) for shard in missing(shards, store)}


def run_here(
    shards: Iterable[Shard], store: Store, worker: Worker, on_evaluations: Callable[[int], None] = lambda count: None
) -> Iterator[Outcome]:
    """The missing shards, one after the other.

    Raises:
        CannotWrite: The results' place takes no more.
        DeviceError: There is no such device.
        ModelError: A model is not to be had.
        UnsupportedPipelineError: A model that shapefirst cannot steer.
    """
    for shard in missing(shards, store):
        yield _do(shard, store, worker, on_evaluations)


def run_on_ray(shards: Iterable[Shard], store: Store, worker: Mapping[str, Any], cluster: Cluster) -> Iterator[Outcome]:
    """The missing shards as Ray tasks; Ray itself repeats those whose worker or node has died.

    Args:
        shards: The plan, or a part of it.
        store: On a folder that all nodes share, or behind a URL.
        worker: What `worker_for` takes. Each worker process loads a model once.
        cluster: Connected.

    Raises:
        ShapefirstError: As `run_here`; or a node's Python lacks a package.
    """
    waiting: dict[Any, str] = {}
    todo = missing(shards, store)
    while True:
        while len(waiting) < 2 * cluster.slots and (shard := next(todo, None)) is not None:
            waiting[cluster.start(_task, shard, store.url, dict(worker), str(Path.cwd()))] = shard.name
        if not waiting:
            return
        done = cluster.wait(waiting)
        name = waiting.pop(done)
        try:
            outcome = cluster.result(done)
        except TaskFailed as error:
            if isinstance(error.__cause__, STOPPING):
                raise error.__cause__ from None
            store.give_up(name, error.trace)
            outcome = Outcome(name, failed=str(error))
        yield outcome


def _task(shard: Shard, url: str, worker: Mapping[str, Any], folder: str) -> Outcome:
    if Path(folder).is_dir():  # models and weights may have been named from there
        os.chdir(folder)
    return _do(shard, Store(url), worker_for(**worker))


def _do(
    shard: Shard, store: Store, worker: Worker, on_evaluations: Callable[[int], None] = lambda count: None
) -> Outcome:
    failed = why = ""
    for _ in range(TRIES):
        counted = 0

        def count(evaluations: int) -> None:
            nonlocal counted
            counted += evaluations
            on_evaluations(evaluations)

        try:
            work = worker.run(shard, count)
        except STOPPING:
            raise
        except ImportError as error:
            raise PackageError(f"Python on {platform.node()} lacks what a sweep needs: {first_line(error)}.") from error
        except Exception as error:
            failed = first_line(error)
            why = traceback.format_exc()
            on_evaluations(-counted)  # they are done again
            continue
        store.write(shard.name, work.table, work.images)
        return Outcome(shard.name, work.evaluations)
    store.give_up(shard.name, why)
    return Outcome(shard.name, failed=failed)
