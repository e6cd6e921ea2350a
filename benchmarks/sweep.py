"""The bars of the sweep: what sharing saves in time, how well the plan projects it, kills, two nodes, a large plan.

    python benchmarks/sweep.py sharing [--prompts 64]        shared and separate runs in turns, in one process
    python benchmarks/sweep.py projection [--prompts 64]     the plan's time, and the run's
    python benchmarks/sweep.py kills [--times 20]            SIGKILL at random moments, resumed each time
    python benchmarks/sweep.py nodes [--prompts 32]          one and two Ray nodes of one core each, in turns
    python benchmarks/sweep.py planning --captions FILE      30,000 captions: seconds and memory; and a driver's memory

On pocket with DDIM and DPM-Solver++, 50 steps, text in 0, 5, ..., 50. On an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import track

from shapefirst.cli.loading import quiet_libraries
from shapefirst.sweep.cluster import Resources, connected
from shapefirst.sweep.cost import cost_of
from shapefirst.sweep.grid import FULL, Grid, Shards, prompts_of
from shapefirst.sweep.rows import NOT_MEASURED
from shapefirst.sweep.run import run_here, run_on_ray
from shapefirst.sweep.store import Store
from shapefirst.sweep.work import Scorers, Worker

GRID = Grid(samplers=("ddim", "dpm-solver"), text_steps=("0:50:5",), count=64)


def plan(**changes: Any) -> Shards:
    grid = replace(GRID, **changes)
    return Shards(grid, prompts_of(grid))


def sharing(given: argparse.Namespace) -> None:
    """Each shard once with its policies together, and once with each of them alone; who begins alternates."""
    worker = Worker()
    ratios: dict[str, list[float]] = {}
    for n, shard in enumerate(track(plan(count=given.prompts), "sharing")):
        alone = [replace(shard, policies={FULL: schedule}) for schedule in shard.policies.values()]
        if n == 0:
            worker.run(replace(shard, policies=dict(list(shard.policies.items())[:1]), prompts=shard.prompts[:2]))
        seconds = {}
        for kind in ("together", "apart") if n % 2 == 0 else ("apart", "together"):
            start = time.perf_counter()
            for one in [shard] if kind == "together" else alone:
                worker.run(one)
            seconds[kind] = time.perf_counter() - start
        ratios.setdefault(shard.setting.sampler, []).append(seconds["together"] / seconds["apart"])
    for sampler, values in ratios.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        print(f"{sampler}: wall-clock of shared over separate runs {statistics.median(values):.3f} (shards: {each})")
    for cost in cost_of(plan(count=1000)):
        print(f"{cost.setting}: evaluations {cost.shared:,} of {cost.apart:,}, {cost.shared / cost.apart:.4f}")


def projection(given: argparse.Namespace) -> None:
    """What `sweep plan` would print, beside what the run then takes."""
    from shapefirst.sweep.probe import probe

    shards, worker = plan(count=given.prompts), Worker()
    paces = {setting: probe(worker, shards, setting) for setting in shards.settings}
    projected = sum(cost.seconds(paces[cost.setting]) for cost in cost_of(shards))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder + "/sweep")
        store.begin(shards, {})
        start = time.perf_counter()
        for _ in track(run_here(shards, store, worker), "running", total=len(shards)):
            pass
        taken = time.perf_counter() - start
    print(f"projected {projected:.0f} s, taken {taken:.0f} s, ratio {projected / taken:.2f}")


def kills(given: argparse.Namespace) -> None:
    """The same sweep once in one go, and once killed and resumed over and over: the same rows."""
    options = "--count 60 --steps 6 --shard-size 2 --text-steps 0:6:2 --sampler ddim --sampler dpm-solver"
    command = [sys.executable, "-m", "shapefirst", "sweep", "run", *options.split(), "--out"]
    dice = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = f"{folder}/whole", f"{folder}/killed"
        start = time.perf_counter()
        once = subprocess.Popen([*command, whole], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while once.poll() is None and not list(Path(whole).glob("shards/*.parquet")):
            time.sleep(0.05)
        first = time.perf_counter() - start
        assert once.wait() == 0
        rest = time.perf_counter() - start - first
        done = []
        for _ in track(range(given.times), "killing"):
            run = subprocess.Popen([*command, killed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # From before the first shard on, and so that all kills together go through about the whole sweep.
            time.sleep(dice.uniform(0.5 * first, 1.5 * first + 1.5 * rest / given.times))
            run.send_signal(signal.SIGKILL)
            run.wait()
            done.append(len(list(Path(killed).glob("shards/*.parquet"))))
        subprocess.run([*command, killed], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        one, other = Store(whole), Store(killed)
        names = sorted(one.done())
        assert names == sorted(other.done()), "shards differ"
        rows = 0
        for shard in one.plan():
            (a, _), (b, _) = one.read(shard), other.read(shard)
            columns = [c for c in a.column_names if c not in NOT_MEASURED]
            assert a.select(columns).equals(b.select(columns)), f"metrics of shard {shard.name} differ"
            assert a.equals(b), f"rows of shard {shard.name} differ"
            rows += len(a)
        left = [str(path) for path in Path(killed).rglob("*.part")]
        print(f"{given.times} kills, shards done after each: {done}")
        print(f"{len(names)} shards, {rows} rows, all columns equal; half-written files left: {len(left)}")


def nodes(given: argparse.Namespace) -> None:
    """Seconds of the same sweep on one Ray node and on two, each of one core; models are loaded before the clock."""
    from ray.cluster_utils import Cluster

    worker = {"device": "cpu", "scores": Scorers(), "keep_images": "none", "batch_size": None}

    def seconds_on(count: int) -> float:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(count - 1):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        shards = plan(count=given.prompts, samplers=("ddim",), shard_size=2, steps=(20,), text_steps=("0:20:5",))
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder + "/sweep")
            store.begin(shards, {})
            with connected(cluster.address, Resources(cores=1)) as there:
                outcomes = run_on_ray(shards, store, worker, there)
                warm = [next(outcomes) for _ in range(2 * count)]
                start = time.perf_counter()
                rest = list(outcomes)
                taken = (time.perf_counter() - start) / len(rest)
        assert not any(outcome.failed for outcome in [*warm, *rest])
        cluster.shutdown()
        return taken

    ratios = []
    for n in range(given.rounds):
        order = (1, 2) if n % 2 == 0 else (2, 1)
        seconds = {count: seconds_on(count) for count in order}
        ratios.append(seconds[1] / seconds[2])
        print(f"round {n + 1}: {seconds[1]:.2f} s a shard on one node, {seconds[2]:.2f} s on two: {ratios[-1]:.2f}x")
    print(f"two nodes against one: {statistics.median(ratios):.2f}x")


def planning(given: argparse.Namespace) -> None:
    """Seconds and memory of a plan of 30,000 captions; then what a driver's memory does over many finished shards."""
    code = (
        "import time; t = time.time()\n"
        "from shapefirst.sweep.cost import cost_of\n"
        "from shapefirst.sweep.grid import Grid, Shards, prompts_of\n"
        f"grid = Grid(models=('sd15', 'sd21-base', 'pixart-alpha'), samplers=('ddim', 'dpm-solver'), "
        f"text_steps=('0:50:5',), prompts={str(given.captions)!r}, count=30000)\n"
        "shards = Shards(grid, prompts_of(grid)); costs = cost_of(shards)\n"
        "n = sum(len(shard.prompts) for shard in shards)\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "most = int(next(line for line in lines if line.startswith('VmHWM')).split()[1]) / 1e3\n"
        "print(f'{len(shards):,} shards, {n:,} images of each policy: {time.time() - t:.2f} s, {most:.0f} MB')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

    import pyarrow

    from shapefirst.sweep.work import Work

    class Idle(Worker):
        def run(self, shard: Any, on_evaluations: Any = None) -> Work:
            return Work(pyarrow.table({"features": [[0.5] * 2048] * len(shard.prompts)}), {}, 0)

    shards = plan(count=10_000, shard_size=8)
    with tempfile.TemporaryDirectory() as folder:
        store, seen = Store(folder + "/sweep"), []
        store.begin(shards, {})
        for n, _ in enumerate(run_here(shards, store, Idle())):
            if n % 500 == 499:
                seen.append(memory())
    print(f"driver's memory after every 500 of {len(shards):,} shards, MB: {', '.join(f'{m:.0f}' for m in seen)}")


def memory() -> float:
    """MB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main(words: Sequence[str] | None = None) -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("what", choices=["sharing", "projection", "kills", "nodes", "planning"])
    arguments.add_argument("--prompts", type=int, default=64)
    arguments.add_argument("--times", type=int, default=20)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--captions", type=Path)
    given = arguments.parse_args(words)
    quiet_libraries()
    print(f"{os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS', 'all')} threads")
    stages = {"sharing": sharing, "projection": projection, "kills": kills, "nodes": nodes, "planning": planning}
    stages[given.what](given)


if __name__ == "__main__":
    main()
