"""A sweep on a real Ray cluster of two nodes: the same rows, also where workers and a node die on the way."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ray import cluster_utils
from test_sweep import shards_of

from shapefirst.sweep.grid import Grid
from shapefirst.sweep.run import Resources, run_here, run_on_ray
from shapefirst.sweep.store import CannotWrite, Store
from shapefirst.sweep.work import Scorers, Worker

GRID = Grid(steps=(4,), text_steps=("0", "2"), count=8, shard_size=1)
WORKER = {"device": "cpu", "scores": Scorers(), "keep_images": "none", "batch_size": None}


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: finds workers in /proc")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each, of which a test may take the second away."""
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
    for outcome in run_on_ray(shards_of(GRID), there, WORKER, nodes.address, Resources(cores=1)):
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
    with pytest.raises(CannotWrite, match=r"Cannot write '.*images.*': Not a directory"):
        list(run_on_ray(shards_of(GRID), store, worker, nodes.address, Resources(cores=1)))
    assert store.done() == set()


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
            if b"ray::_task" in file.read_bytes() and parent_of(parent_of(file.parent.name)) == str(os.getpid()):
                found.append(int(file.parent.name))
    return found


def parent_of(process):
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
