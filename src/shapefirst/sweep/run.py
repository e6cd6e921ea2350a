"""A sweep's shards one after the other, or as Ray tasks: the same function does them, and stores what it made.

What is done stays done: a run begins with what is missing. A shard that fails is tried three times and then given up
with its reason, and the others go on. Where nothing can be written any more, or a model is not to be had, everything
stops.
"""

from __future__ import annotations

import os
import re
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shapefirst.errors import DeviceError, ModelError, ShapefirstError, UnsupportedPipelineError, first_line
from shapefirst.sweep.grid import Shard, Shards
from shapefirst.sweep.store import CannotWrite, Store
from shapefirst.sweep.work import Worker, worker_for

__all__ = ["Outcome", "Resources", "missing", "missing_evaluations", "run_here", "run_on_ray"]

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


@dataclass(frozen=True)
class Resources:
    """What one Ray task takes."""

    cores: int = 1
    gpus: float = 0


def missing(shards: Shards, store: Store) -> Iterator[Shard]:
    """The shards that are not done yet, in order."""
    done = store.done()
    return (shard for shard in shards if shard.name not in done)


def missing_evaluations(shards: Shards, store: Store) -> dict[str, int]:
    """Of the denoiser, for each shard that is not done yet, by name."""
    each = {setting: shards.evaluations(setting) for setting in shards.settings}
    return {shard.name: each[shard.setting] * len(shard.prompts) for shard in missing(shards, store)}


def run_here(
    shards: Shards, store: Store, worker: Worker, on_evaluations: Callable[[int], None] = lambda count: None
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


def run_on_ray(
    shards: Shards, store: Store, worker: Mapping[str, Any], address: str, resources: Resources
) -> Iterator[Outcome]:
    """The missing shards as Ray tasks; Ray itself repeats those whose worker or node has died.

    Args:
        shards: The plan.
        store: On a folder that all nodes share, or behind a URL.
        worker: What `worker_for` takes. Each worker process loads a model once.
        address: Of a running cluster; "auto" is the one of this machine, "local" starts one here.
        resources: Of one task.

    Raises:
        ShapefirstError: Ray is not installed, or there is no such cluster; or as `run_here`.
    """
    ray = _ray(address)
    try:
        slots = _slots(ray, resources)
        task = ray.remote(num_cpus=resources.cores, num_gpus=resources.gpus, max_retries=TRIES, max_calls=0)(_task)
        waiting: dict[Any, str] = {}
        todo = missing(shards, store)
        while True:
            while len(waiting) < 2 * slots and (shard := next(todo, None)) is not None:
                waiting[task.remote(shard, store.url, dict(worker), str(Path.cwd()))] = shard.name
            if not waiting:
                return
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            name = waiting.pop(ready)
            try:
                outcome = ray.get(ready)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, STOPPING):
                    raise cause from error
                store.give_up(name, traceback.format_exc())
                outcome = Outcome(name, failed=first_line(error))
            yield outcome
    finally:
        ray.shutdown()


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
        except Exception as error:
            failed = first_line(error)
            why = traceback.format_exc()
            on_evaluations(-counted)  # they are done again
            continue
        store.write(shard.name, work.table, work.images)
        return Outcome(shard.name, work.evaluations)
    store.give_up(shard.name, why)
    return Outcome(shard.name, failed=failed)


def _ray(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise ShapefirstError("Running on a cluster needs Ray: pip install 'shapefirst[ray]'.") from error
    if ray.is_initialized():
        raise ShapefirstError("Ray is already connected in this process: call ray.shutdown() first.")
    try:
        if match := re.fullmatch(r"([\w.-]+):(\d+)", address):  # Ray itself tries for half a minute
            socket.create_connection((match[1], int(match[2])), timeout=5).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise ShapefirstError(
            f"There is no Ray cluster at {address!r} ({first_line(error)}): start one with `ray start --head`, or say "
            "--ray local."
        ) from error
    return ray


def _slots(ray: Any, resources: Resources) -> int:
    """How many tasks run at a time."""
    there = ray.cluster_resources()
    slots = []
    for kind, wanted in (("CPU", resources.cores), ("GPU", resources.gpus)):
        has = there.get(kind, 0)
        if has < wanted:
            raise ShapefirstError(f"A task asks for {wanted:g} {kind}, and the cluster has {has:g}: ask for less.")
        if wanted:
            slots.append(has / wanted)
    return max(1, int(min(slots, default=1)))
