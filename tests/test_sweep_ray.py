"""A sweep on a real Ray cluster of two nodes: the same rows, also where workers and a node die on the way."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import ray
from commands import one_sentence, shapefirst
from ray import cluster_utils
from test_sweep import shards_of

from shapefirst.errors import PackageError, ShapefirstError
from shapefirst.sweep.cluster import Resources, TaskFailed, connected
from shapefirst.sweep.grid import Grid
from shapefirst.sweep.run import run_here, run_on_ray
from shapefirst.sweep.store import CannotWrite, Store
from shapefirst.sweep.work import Scorers, Worker

GRID = Grid(steps=(4,), text_steps=("0", "2"), count=8, shard_size=1)
WORKER = {"device": "cpu", "scores": Scorers(), "keep_images": "none", "batch_size": None}


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: finds workers in /proc")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each, of which a test may take the second away."""
    # Ray's workers give way to all else: beside other tests, which are never idle, they came to nothing for minutes.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (spelled so)
    found = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = found.add_node(num_cpus=1)
    found.wait_for_nodes()
    yield found, second
    found.shutdown()


def test_two_nodes_make_the_rows_of_one_run_though_a_worker_is_killed_and_a_node_lost(cluster, tmp_path):
    nodes, second = cluster
    here, there = Store(str(tmp_path / "here")), Store(str(tmp_path / "there"))
    for store in (here, there):
        store.begin(shards_of(GRID), {})
    assert len(list(run_here(shards_of(GRID), here, Worker("cpu")))) == 8

    done = []
    with connected(nodes.address, Resources(cores=1)) as ray_cluster:
        for outcome in run_on_ray(shards_of(GRID), there, WORKER, ray_cluster):
            assert outcome.failed == ""
            done.append(outcome.name)
            if len(done) == 2:
                kill_a_worker()
            if len(done) == 4:
                nodes.remove_node(second)
    assert sorted(done) == sorted(here.done()) == sorted(there.done())
    assert all(there.read(shard)[0].equals(here.read(shard)[0]) for shard in here.plan())


def test_a_place_that_takes_no_more_stops_the_sweep(cluster, tmp_path):
    nodes, _ = cluster
    store = Store(str(tmp_path / "there"))
    store.begin(shards_of(GRID), {})
    (tmp_path / "there" / "images").write_text("no folder")
    worker = {**WORKER, "keep_images": "all"}
    stopped = pytest.raises(CannotWrite, match=r"Cannot write '.*images.*': Not a directory")
    with connected(nodes.address, Resources(cores=1)) as ray_cluster, stopped:
        list(run_on_ray(shards_of(GRID), store, worker, ray_cluster))
    assert store.done() == set()


def test_a_node_that_lacks_the_package_stops_the_sweep_and_is_named(cluster, tmp_path):
    nodes, _ = cluster
    (tmp_path / "shapefirst.py").write_text("raise ModuleNotFoundError('No module named shapefirst')")
    bare = nodes.add_node(num_cpus=1, num_gpus=1, env_vars={"PYTHONPATH": str(tmp_path)})
    store = Store(str(tmp_path / "there"))
    store.begin(shards_of(GRID), {})
    says = rf"^The cluster's Python on {platform.node()} cannot run the sweep \(No module named shapefirst\): install"
    with connected(nodes.address, Resources(gpus=1)) as ray_cluster, pytest.raises(PackageError, match=says):
        list(run_on_ray(shards_of(GRID), store, WORKER, ray_cluster))
    assert store.failed() == {}
    nodes.remove_node(bare)


def test_what_a_task_raises_is_told_without_colours_or_process_ids(cluster, tmp_path):
    nodes, _ = cluster
    with connected(nodes.address, Resources()) as ray_cluster:
        task = ray_cluster.start(int, "no number")
        with pytest.raises(TaskFailed, match=r"^invalid literal for int\(\) with base 10: 'no number'$") as failed:
            ray_cluster.result(ray_cluster.wait([task]))
    assert "\x1b" not in failed.value.trace


def test_where_a_cluster_is_not_to_be_had_nothing_is_written(cluster, tmp_path):
    nodes, _ = cluster
    run = ("sweep", "run", "--count", 2, "--steps", 2, "--out", tmp_path / "sweep", "--ray")
    assert "There is no Ray cluster at '127.0.0.1:1'" in one_sentence(shapefirst(*run, "127.0.0.1:1"))
    assert "the cluster has 0: ask for less" in one_sentence(shapefirst(*run, nodes.address, "--gpus", 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [ConnectionError("Failed to connect"), ray.exceptions.AuthenticationError("No token")]
)
def test_a_cluster_that_asks_for_a_token_is_one(cluster, monkeypatch, error):
    nodes, _ = cluster

    def init(**_):
        raise error

    monkeypatch.setattr(ray, "init", init)
    says = r"does not let us in \((Failed|No token).*\): .* set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    with pytest.raises(ShapefirstError, match=says), connected(nodes.address, Resources()):
        raise AssertionError


def kill_a_worker():
    """SIGKILL to one that is at work, which has the task's name for as long; other people's clusters are left alone."""
    deadline = time.monotonic() + 30
    while not (busy := workers_at_work()):  # between two tasks a worker has another name
        assert time.monotonic() < deadline
    os.kill(busy[0], signal.SIGKILL)


def workers_at_work():
    """Processes that run a task, of a cluster that this process has started: their parent is a raylet of its own."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # a process that has just ended
            if b"ray::task" in file.read_bytes() and parent_of(parent_of(file.parent.name)) == str(os.getpid()):
                found.append(int(file.parent.name))
    return found


def parent_of(process):
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
