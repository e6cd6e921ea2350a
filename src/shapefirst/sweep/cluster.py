"""A Ray cluster that a sweep gives its shards to."""

from __future__ import annotations

import os
import pickle
import re
import socket
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shapefirst import __version__
from shapefirst.errors import PackageError, ShapefirstError, first_line, installing, shortened

__all__ = ["Cluster", "Resources", "TaskFailed", "connected"]

RETRIES: Final = 3  # of a task whose worker or node has died
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Resources:
    """What one Ray task takes."""

    cores: int = 1
    gpus: float = 0


class TaskFailed(Exception):
    """A task has raised something, which is the cause, or could not be run at all.

    Attributes:
        trace: Where, for a file.
    """

    def __init__(self, error: Exception) -> None:
        self.trace = _COLOUR.sub("", "".join(traceback.format_exception(error)))
        self.__cause__ = getattr(error, "cause", None)
        said = self.__cause__ if isinstance(self.__cause__, Exception) else error
        super().__init__(_COLOUR.sub("", first_line(said)))


@dataclass(frozen=True)
class Cluster:
    """What runs on it is a function of shapefirst, which each node's own Python has to have.

    Attributes:
        slots: How many tasks run at a time.
    """

    slots: int
    _ray: Any
    _remote: Any

    def start(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Hands a call to the cluster; returns what `wait` and `result` know it by."""
        return self._remote.remote(pickle.dumps((function, arguments)))

    def wait(self, tasks: Collection[Any]) -> Any:
        """One of them that has ended."""
        (ready,), _ = self._ray.wait(list(tasks), num_returns=1)
        return ready

    def result(self, task: Any) -> Any:
        """What the call returned.

        Raises:
            PackageError: The Python of its node cannot run shapefirst.
            TaskFailed: It raised, or its workers died too often.
        """
        try:
            returned, host, lacking = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            raise TaskFailed(error) from error
        if lacking:
            raise PackageError(
                f"The cluster's Python on {host} cannot run the sweep ({lacking}): install shapefirst {__version__} "
                "with its studies there, as on every node."
            )
        return returned


@contextmanager
def connected(address: str, resources: Resources) -> Iterator[Cluster]:
    """A cluster, until the block ends.

    Args:
        address: Of a running one; "auto" is that of this machine, "local" starts one here.
        resources: Of one task.

    Raises:
        ShapefirstError: Ray is not installed; or there is no such cluster, it lets nobody in without a token, or has
            less than a task asks for.
    """
    ray = _ray(address)
    try:
        yield Cluster(_slots(ray, resources), ray, _remote(ray, resources))
    finally:
        ray.shutdown()


def _remote(ray: Any, resources: Resources) -> Any:
    """Unpacks a call and makes it. As it is no function of a module, it travels as code, so that a node which lacks
    shapefirst can say so."""

    def task(packed: bytes) -> tuple[Any, str, str]:
        import pickle
        import platform

        try:
            function, arguments = pickle.loads(packed)
        except (ImportError, AttributeError) as error:  # there is none, or another version
            return None, platform.node(), str(error)
        return function(*arguments), "", ""

    return ray.remote(num_cpus=resources.cores, num_gpus=resources.gpus, max_retries=RETRIES, max_calls=0)(task)


def _ray(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise ShapefirstError(f"Running on a cluster needs Ray: {installing('ray')}.") from error
    if ray.is_initialized():
        raise ShapefirstError("Ray is already connected in this process: call ray.shutdown() first.")
    answers = False
    try:
        if match := re.fullmatch(r"([\w.-]+):(\d+)", address):  # Ray itself tries for half a minute
            socket.create_connection((match[1], int(match[2])), timeout=5).close()
            answers = True
        with _silence():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, OverflowError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        said = _COLOUR.sub("", first_line(error))
        if answers or isinstance(error, ray.exceptions.RayError):
            raise ShapefirstError(
                f"The Ray cluster at {shortened(address)!r} does not let us in ({said}): where it asks for a token, "
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN; its Ray and its Python have to be those of this machine."
            ) from error
        raise ShapefirstError(
            f"There is no Ray cluster at {shortened(address)!r} ({said}): start one with `ray start --head`, or say "
            "--ray local."
        ) from error
    return ray


@contextmanager
def _silence() -> Iterator[None]:
    """Without what Ray's own code writes on stderr, a line for every second in which a cluster does not let us in."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


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
