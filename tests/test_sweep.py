"""Sweeps: what a plan costs, shards that equal separate runs, nothing lost or doubled, and what the table says."""

from __future__ import annotations

import errno
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tracemalloc
from itertools import count
from pathlib import Path

import diffusers
import numpy as np
import pyarrow.parquet
import pytest
import torch
from commands import holding, one_sentence, shapefirst
from cuts import killed
from PIL import Image
from rich.console import Console

from shapefirst import __version__, load
from shapefirst.cli import tables, terminal
from shapefirst.errors import ModelError, ShapefirstError
from shapefirst.files import LOCK
from shapefirst.findings.finding import Summary
from shapefirst.measure import l1
from shapefirst.measure.frechet import Moments, frechet_distance
from shapefirst.measure.intervals import Interval
from shapefirst.policies.words import parse_policy
from shapefirst.prompts import Prompt
from shapefirst.sampling.loop import decode, denoise, generators
from shapefirst.sweep import run as running
from shapefirst.sweep import store as storing
from shapefirst.sweep.cost import cost_of, disk_bytes
from shapefirst.sweep.grid import Grid, Setting, Shards, prompts_of, read_grid
from shapefirst.sweep.pictures import pictures_of
from shapefirst.sweep.report import finding_of
from shapefirst.sweep.rows import made, picture_name
from shapefirst.sweep.run import missing, run_here
from shapefirst.sweep.store import CannotWrite, Store
from shapefirst.sweep.summary import PolicySummary, Reference, summarise
from shapefirst.sweep.work import Worker

GRID = Grid(
    samplers=("ddim", "dpm-solver"), steps=(4,), text_steps=("0", "50%"), policies=("steps:0+2",), count=5, shard_size=2
)


def shards_of(grid=GRID):
    return Shards(grid, prompts_of(grid))


def tables_of(store):
    return {shard.name: store.read(shard)[0] for shard in store.plan() if shard.name in store.done()}


@pytest.fixture(scope="module")
def worker():
    """With pocket loaded, which takes a second or two."""
    return Worker("cpu")


@pytest.fixture(scope="module")
def finished(worker, tmp_path_factory):
    """The folder of a sweep that ran through."""
    store = Store(str(tmp_path_factory.mktemp("sweep") / "done"))
    store.begin(shards_of(), {"weights": {"pocket": "x"}})
    assert [outcome.failed for outcome in run_here(shards_of(), store, worker)] == [""] * 6
    return store


def test_a_plan_counts_what_is_shared():
    shards = shards_of()
    assert len(shards) == 2 * 3
    assert [len(shard.prompts) for shard in shards] == [2, 2, 1] * 2
    assert [shard.seeds for shard in shards][:3] == [[0, 1], [2, 3], [4]]
    assert list(shards[0].policies) == ["full", "paper:0", "paper:2", "steps:0+2"]
    cost = cost_of(shards)[0]
    assert cost.images == 5 * 4
    assert cost.apart == 5 * (8 + 4 + 6 + 4)
    # 8 for the trunk, 4 and 2 for the tails; "steps:0+2" leaves the trunk at step 1 and evaluates step 2 by itself.
    assert cost.shared == 5 * (8 + 4 + 2 + 2)


def test_the_grid_of_the_issue_takes_less_than_half():
    cost = cost_of(shards_of(Grid(text_steps=("0:50:5",))))[0]
    assert (cost.shared, cost.apart) == (375_000, 825_000)


def test_thirty_thousand_captions_are_planned_in_little_room(tmp_path):
    lines = "".join(f'{i},"a caption, number {i}, of a photograph of something"\n' for i in range(30_000))
    (tmp_path / "captions.csv").write_text("image_id,caption\n" + lines)
    grid = Grid(models=("pocket", "sd15"), prompts=str(tmp_path / "captions.csv"))
    tracemalloc.start()
    shards = shards_of(grid)
    assert sum(len(shard.prompts) for shard in shards) == 60_000
    assert cost_of(shards)[1].images == 330_000
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_full_guidance_is_there_once_and_first():
    assert list(Grid(text_steps=("0%", "100%"), keep=("null", "text")).schedules(10)) == ["full", "paper:0", "text:0"]
    assert list(Grid(text_steps=(), policies=("full", "budget:0.6")).schedules(50)) == ["full", "budget:0.6"]
    assert Grid(text_steps=("50%", "25", "0:50:25")).schedules(50).keys() == {"full", "paper:25", "paper:0"}
    named = "steps:0-6+8+10+13+16+19"  # a budget's with DDIM, and not with DEIS
    assert parse_policy("budget:0.6").guided_steps(20) == parse_policy(named).guided_steps(20)
    assert list(Grid(text_steps=(), policies=("budget:0.6", named)).schedules(20)) == ["full", "budget:0.6", named]


def test_a_plan_tells_about_what_its_results_take_on_the_disk(worker, tmp_path):
    shards = shards_of(Grid(steps=(2,), text_steps=("1",), count=16))
    work = Worker("cpu", keep_images="all", _models=worker._models).run(shards[0])
    for images, kept in (("none", {}), ("all", work.images)):
        store = Store(str(tmp_path / images))
        store.write(shards[0].name, work.table, kept)
        taken = sum(file.stat().st_size for file in (tmp_path / images).rglob("*") if file.is_file())
        assert disk_bytes(shards, keep_images=images) == pytest.approx(taken, rel=0.3)


def test_images_of_a_prompt_have_seeds_of_their_own():
    shards = Shards(Grid(images_per_prompt=2, seed=7, shard_size=4), [Prompt("a"), Prompt("b"), Prompt("c")])
    assert [[p.text for p in shard.prompts] for shard in shards] == [["a", "b", "c", "a"], ["b", "c"]]
    assert [shard.seeds for shard in shards] == [[7, 8, 9, 10], [11, 12]]


def test_a_toml_is_read_and_options_take_its_place(tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text('models = "pocket"\nsteps = [10, 20]\ntext_steps = [5, "50%"]\nguidance_scale = 3\ncount = 9\n')
    grid = read_grid(file, {"count": 4, "samplers": ["euler"]})
    assert grid == Grid(("pocket",), ("euler",), (10, 20), ("5", "50%"), guidance_scale=(3.0,), count=4)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("modles = 'pocket'", "'modles'"),
        ("steps = 'ten'", "'steps'"),
        ("steps = [true]", "'steps'"),
        ("count = [1, 2]", "'count'"),
        ("count = 0", "count"),
        ("steps = [", "TOML"),
        ("samplers = ['plms']", "plms"),
        ("text_steps = [60]", "60 of 50"),
        ("text_steps = ['120%']", "120%"),
        ("text_steps = ['half']", "'half'"),
        ("text_steps = ['0:50:0']", "0:50:0"),
        ("text_steps = ['50:0:5']", "50:0:5"),
        ("keep = 'neither'", "'neither'"),
        ("policies = ['tol:-1']", "tolerance is a finite number from 0"),
        ("guidance_scale = 1", "guidance scale"),
        ("seed = -1", "seed"),
        ("models = []", "models"),
    ],
)
def test_a_grid_that_is_wrong_is_refused_in_a_sentence(tmp_path, content, named):
    file = tmp_path / "grid.toml"
    file.write_text(content)
    result = shapefirst("sweep", "plan", file, "--no-probe")
    assert named in one_sentence(result)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("prompts = 'é'\n".encode("latin-1"), "not UTF-8"),
        ("steps = 2\n".encode("utf-16"), "not UTF-8"),
        (b"steps = " + b"[" * 10_000, "not TOML"),
        (b'prompts = "a\\u0000b"', "Cannot read prompts from 'a\\x00b'"),
        (b'prompts = ["a dog", "a cat"]', "'prompts' .* should be a valid string, not"),
        (b"prompts = true", "'prompts' .* should be a valid string, not True"),
    ],
)
def test_a_grid_in_which_no_text_stands_is_refused(tmp_path, content, why):
    (tmp_path / "grid.toml").write_bytes(content)
    said = one_sentence(shapefirst("sweep", "plan", tmp_path / "grid.toml", "--no-probe"))
    assert re.search(why.replace("\\", "\\\\"), said), said


def test_a_grid_may_begin_with_the_mark_of_an_editor(tmp_path):
    (tmp_path / "grid.toml").write_text("\ufeffsteps = 7\n", encoding="utf-8")
    assert read_grid(tmp_path / "grid.toml", {}).steps == (7,)


def test_heun_is_counted_with_both_of_its_calls(worker):
    grid = Grid(samplers=("heun",), steps=(4,), text_steps=("0", "2"), count=2)
    shards, rows = shards_of(grid), []
    pipe = load("pocket", sampler="heun", device="cpu")
    hook = pipe.unet.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    texts = [prompt.text for prompt in shards.prompts]
    for schedule in shards[0].policies.values():
        for _ in denoise(pipe, texts, schedule=schedule, num_inference_steps=4, generator=generators([0, 1])):
            pass
    hook.remove()
    assert cost_of(shards)[0].apart == sum(rows)
    assert cost_of(shards)[0].shared == worker.run(shards[0]).evaluations < sum(rows)
    assert shards.settings[0].fully_guided == 2 * (4 + 3)


def test_a_shard_has_the_images_of_separate_runs(worker):
    policies, sampler = ("tol:0.05", "tol:3,keep=null"), "dpm-solver"  # whose state each policy has to itself
    grid = Grid(
        samplers=(sampler,), steps=(8,), text_steps=("0", "4"), keep=("null", "text"), policies=policies, count=2
    )
    shard = shards_of(grid)[0]
    pictures = Worker("cpu", keep_images="all", _models=worker._models).run(shard)
    pipe = load("pocket", sampler=sampler, device="cpu")
    rows = pictures.table.drop(["features"]).to_pylist()
    images, spent = {}, {}
    for words, schedule in shard.policies.items():
        texts = [prompt.text for prompt in shard.prompts]
        options = {"num_inference_steps": 8, "guidance_scale": 4.0, "generator": generators(shard.seeds)}
        steps = list(denoise(pipe, texts, schedule=schedule, **options))
        images[words] = decode(pipe, steps[-1].x_next)
        spent[words] = sum(step.evaluations for step in steps)
    for row in rows:
        i, words = row["image"], row["policy"]
        stored = Image.open(io_of(pictures.images[picture_name(i, words)]))
        assert l1(stored, images[words][i]) < 1e-4
        assert row["l1"] == pytest.approx(l1(images[words][i], images["full"][i]), abs=2e-4)
        if not words.startswith("tol"):
            assert row["evaluations"] == shard.policies[words].evaluations(8)
            assert row["text_steps"] == shard.policies[words].text_steps(8)
    for words, of_image in spent.items():
        assert statistics.fmean(row["evaluations"] for row in rows if row["policy"] == words) == of_image
    assert spent["tol:3,keep=null"] < spent["full"] == 16
    assert {(row["policy"], row["image"]) for row in rows} == {(w, i) for w in shard.policies for i in range(2)}
    assert 2 * (8 + 8 + 4 + 4 + 8 + 8) < pictures.evaluations <= cost_of(shards_of(grid))[0].shared


def io_of(content):
    import io

    return io.BytesIO(content)


def test_a_row_is_there_for_every_image_and_the_same_each_time(finished, worker, tmp_path):
    tables = tables_of(finished)
    assert len(tables) == 6
    assert sum(len(table) for table in tables.values()) == 2 * 5 * 4
    again = worker.run(shards_of()[4]).table
    assert again.equals(tables["000004"])  # the metadata, with its seconds, is not compared
    assert made(tables["000004"]).seconds.keys() == {"encoding", "denoising", "decoding", "scoring"}


def test_an_interrupted_sweep_goes_on_with_what_is_missing(finished, worker, tmp_path):
    store = Store(str(tmp_path / "sweep"))
    store.begin(shards_of(), {})
    for outcome in run_here(shards_of(), store, worker):
        if outcome.name == "000001":
            break
    (tmp_path / "sweep" / "shards" / ".000002-0a1b2c3d.part").write_bytes(b"half")  # what SIGKILL leaves
    assert [shard.name for shard in missing(shards_of(), store)] == ["000002", "000003", "000004", "000005"]
    store.begin(shards_of(), {})
    assert not list((tmp_path / "sweep").rglob("*.part"))
    assert len(list(run_here(shards_of(), store, worker))) == 4
    assert tables_of(store) == tables_of(finished)


def test_a_damaged_shard_is_done_again(finished, worker, tmp_path):
    store = Store(str(tmp_path / "sweep"))
    shutil.copytree(finished.url, store.url)
    shards = tmp_path / "sweep" / "shards"
    (shards / "000001.parquet").write_bytes(b"junk")
    shutil.copy(shards / "000002.parquet", shards / "000003.parquet")
    store.begin(shards_of(), {})
    assert [shard.name for shard in missing(shards_of(), store)] == ["000001", "000003"]
    assert len(list(run_here(shards_of(), store, worker))) == 2
    assert tables_of(store) == tables_of(finished)


def test_a_run_that_is_killed_at_any_file_operation_goes_on(worker, tmp_path):
    shards = shards_of(Grid(steps=(2,), text_steps=("1",), count=2, shard_size=2))
    work = worker.run(shards[0])
    other = Store(str(tmp_path / "another"))
    other.begin(shards_of(), {})
    other.give_up("000000", "no such file")

    def run(folder):
        store = Store(str(folder))
        store.begin(shards, {})
        store.write(shards[0].name, work.table, {"0-full.png": b"PNG"})

    def files(folder):
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    run(tmp_path / "undisturbed")
    for begun in (None, tmp_path / "another"):
        for at in count():
            folder = tmp_path / f"{begun is None}-{at}"
            if begun is not None:
                shutil.copytree(begun, folder)
            if not killed(at, lambda folder=folder: run(folder)):
                break
            run(folder)
            assert files(folder) == files(tmp_path / "undisturbed"), at
        assert at > 10


def test_a_folder_with_a_prompts_file_of_the_user_s_is_no_sweep_that_was_begun(tmp_path):
    for name in ("prompts.txt", ".notes-0a1b2c3d.part"):
        folder = tmp_path / name[1:]
        folder.mkdir()
        (folder / name).write_text("a red car\n# years of work\n")
        with pytest.raises(ShapefirstError, match="no sweep"):
            Store(str(folder)).begin(shards_of(), {})
        assert (folder / name).read_text().endswith("years of work\n")


def test_prompts_that_were_changed_are_mended_by_the_run(finished, tmp_path):
    shutil.copytree(finished.url, tmp_path / "sweep")
    for content in (b"", b"another\n"):
        (tmp_path / "sweep" / "prompts.txt").write_bytes(content)
        Store(str(tmp_path / "sweep")).begin(shards_of(), {"weights": {"pocket": "x"}})
        assert Store(str(tmp_path / "sweep")).plan().prompts == finished.plan().prompts


def test_a_shard_that_fails_three_times_is_given_up_and_the_others_go_on(tmp_path):
    tried = []

    class Failing(Worker):
        def run(self, shard, on_evaluations=lambda count: None):
            tried.append(shard.name)
            on_evaluations(10)
            if shard.name == "000001" or tried.count(shard.name) < 2:
                raise RuntimeError("out of\nmemory")
            import pyarrow

            from shapefirst.sweep.work import Work

            return Work(pyarrow.table({"image": [1]}), {}, 10)

    store, told = Store(str(tmp_path / "sweep")), []
    store.begin(shards_of(), {})
    outcomes = {outcome.name: outcome.failed for outcome in run_here(shards_of(), store, Failing(), told.append)}
    assert outcomes == {f"{i:06d}": "out of" if i == 1 else "" for i in range(6)}
    assert tried.count("000001") == 3
    assert tried.count("000002") == 2
    assert sum(told) == 5 * 10  # what was done in vain does not count
    assert "RuntimeError" in store.failed()["000001"]
    assert {shard.name for shard in shards_of()} - store.done() == {"000001"}


def test_a_model_that_is_not_to_be_had_stops_the_sweep(tmp_path):
    shards = shards_of(Grid(models=("nobody/nothing",), steps=(4,), count=4))
    store = Store(str(tmp_path / "sweep"))
    store.begin(shards, {})
    with pytest.raises(ModelError, match="nobody/nothing"):
        list(run_here(shards, store, Worker("cpu")))
    assert store.failed() == {}


def test_a_full_disk_stops_the_sweep_at_once(tmp_path, worker, monkeypatch):
    store = Store(str(tmp_path / "sweep"))
    store.begin(shards_of(), {})

    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CannotWrite, match="No space left"):
        list(run_here(shards_of(), store, worker))
    assert store.done() == set()


def test_another_sweep_s_folder_is_left_alone(finished, tmp_path):
    with pytest.raises(ShapefirstError, match=r"differs in count \(5 there, 3 here\)"):
        finished.begin(shards_of(Grid(**{**vars(GRID), "count": 3})), {"weights": {"pocket": "x"}})
    with pytest.raises(ShapefirstError, match="differs in weights"):
        finished.begin(shards_of(), {"weights": {"pocket": "y"}})
    (tmp_path / "mine.txt").write_text("notes")
    with pytest.raises(ShapefirstError, match="no sweep"):
        Store(str(tmp_path)).begin(shards_of(), {})


def test_a_new_version_goes_on_with_a_half_done_sweep_and_another_format_is_refused(finished, tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    shutil.copytree(finished.url, folder)
    (folder / "shards" / "000004.parquet").unlink()
    monkeypatch.setattr(storing, "__version__", "99.0")
    store = Store(str(folder))
    store.begin(shards_of(), {"weights": {"pocket": "x"}})
    assert [shard.name for shard in missing(shards_of(), store)] == ["000004"]
    assert store.manifest()["shapefirst"] == __version__  # who began it stays
    monkeypatch.setattr(storing, "FORMAT", 2)
    with pytest.raises(ShapefirstError, match=rf"the format 1, and shapefirst 99.0 goes on with 2: .* {__version__},"):
        store.begin(shards_of(), {"weights": {"pocket": "x"}})
    assert len(store.done()) == 5


def test_a_sweep_that_finished_no_shard_makes_room_for_another(tmp_path):
    store = Store(str(tmp_path / "sweep"))
    store.begin(shards_of(), {"scores": {"inception": "a file that is not there"}})
    store.give_up("000000", "no such file")
    half = tmp_path / "sweep" / "images" / "000000" / "0-full.png"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"of a shard that was not finished")
    other = Grid(**{**vars(GRID), "count": 3})
    store.begin(shards_of(other), {"scores": {"inception": None}})
    assert store.plan().grid == other
    assert len(store.plan().prompts) == 3
    assert store.failed() == {}
    assert not half.exists()


def test_the_manifest_says_what_the_sweep_was_begun_with(finished):
    manifest = finished.manifest()
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["versions"]["diffusers"] == diffusers.__version__
    assert manifest["shapefirst"] == __version__


def test_results_go_behind_any_url(worker):
    store = Store("memory://somewhere/sweep")
    grid = Grid(steps=(2,), text_steps=("1",), count=2, shard_size=1)
    store.begin(shards_of(grid), {})
    assert len(list(run_here(shards_of(grid), store, worker))) == 2
    assert Store("memory://somewhere/sweep").done() == {"000000", "000001"}
    assert [len(table) for table in tables_of(store).values()] == [2, 2]
    with pytest.raises(ShapefirstError, match="nosuch"):
        Store("nosuch://x")


def test_the_summary_is_that_of_all_rows_in_one_pass(finished):
    stored = summarise(finished)
    assert (stored.shards, len(stored.conditions)) == (6, 8)
    assert stored.seconds == pytest.approx(
        sum(sum(made(table).seconds.values()) for table in tables_of(finished).values()), rel=1e-9
    )
    conditions = stored.conditions
    assert [(one.setting.sampler, one.policy) for one in conditions] == [
        (sampler, policy)
        for sampler in ("ddim", "dpm-solver")
        for policy in ("paper:0", "steps:0+2", "paper:2", "full")
    ]
    rows = [row for table in tables_of(finished).values() for row in table.to_pylist()]
    for one in conditions:
        mine = [r for r in rows if (r["policy"], r["sampler"]) == (one.policy, one.setting.sampler)]
        full = [r for r in rows if (r["policy"], r["sampler"]) == ("full", one.setting.sampler)]
        assert one.n == len(mine) == 5
        assert one.metrics["l1"].estimate == pytest.approx(np.mean([r["l1"] for r in mine]))
        whole = frechet_distance(*(np.array([r["features"] for r in part], dtype=np.float64) for part in (mine, full)))
        assert one.frechet.estimate == pytest.approx(whole, rel=1e-6, abs=1e-6)
        assert one.saved == 1 - mine[0]["evaluations"] / 8


def test_distances_have_the_interval_of_a_jackknife_over_prompts(finished):
    noise = np.random.default_rng(0).normal(size=(300, 256))
    conditions = summarise(finished, Reference("noise", "noise", lambda setting: Moments.of(noise))).conditions
    rows = [row for table in tables_of(finished).values() for row in table.to_pylist() if row["sampler"] == "ddim"]
    features = {
        policy: np.array([r["features"] for r in sorted(rows, key=lambda r: r["image"]) if r["policy"] == policy])
        for policy in ("paper:2", "full")
    }

    def interval(distance):
        """Written out: five prompts, fewer than the groups, so each is left out once."""
        without = [distance(*(np.delete(features[p], i, axis=0) for p in ("paper:2", "full"))) for i in range(5)]
        reach = 2.776445 * np.sqrt(4 / 5 * np.sum((without - np.mean(without)) ** 2))  # t(4) from a printed table
        whole = distance(features["paper:2"], features["full"])
        return whole, whole - reach, whole + reach

    found = next(one for one in conditions if (one.setting.sampler, one.policy) == ("ddim", "paper:2"))
    for got, wanted in (
        (found.frechet, interval(frechet_distance)),
        (found.reference, interval(lambda x, full: frechet_distance(x, noise))),
        (found.over_full, interval(lambda x, full: frechet_distance(x, noise) / frechet_distance(full, noise))),
    ):
        assert got.estimate == pytest.approx(wanted[0], rel=1e-6)
        assert got.low == pytest.approx(max(0, wanted[1]), rel=1e-4)
        assert got.high == pytest.approx(wanted[2], rel=1e-4)


def test_sums_of_shards_are_the_sums_of_all():
    x = np.random.default_rng(0).normal(size=(700, 24)) + 5
    parts = [Moments.of(x[i : i + 32]) for i in range(0, 700, 32)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    other = Moments.of(np.random.default_rng(1).normal(size=(500, 24)))
    assert frechet_distance(merged, other) == pytest.approx(frechet_distance(x, other), rel=1e-6)


def test_the_commands_plan_run_time_and_report(tmp_path):
    out = tmp_path / "sweep"
    options = ("--steps", 4, "--text-steps", "0", "--text-steps", "50%", "--count", 3, "--shard-size", 2)
    planned = shapefirst("sweep", "plan", "--probe", *options)
    assert planned.exit_code == 0, planned.output
    assert "9" in planned.stdout
    assert "Time on this machine" in planned.stdout
    ran = shapefirst("sweep", "run", *options, "--images", "sample", "--out", out)
    assert ran.exit_code == 0, ran.output
    assert len(list((out / "images").rglob("*.png"))) == 3 * 3
    again = shapefirst("sweep", "run", *options, "--images", "sample", "--out", out)
    assert "2 of 2 shards done already" in again.stderr
    timed = shapefirst("sweep", "latency", out, "--batch", 1, "--rounds", 2, "--policy", "paper:2")
    assert timed.exit_code == 0, timed.output
    told = shapefirst("sweep", "report", out, "--reference", out / "images")
    assert told.exit_code == 0, told.output
    page = (out / "report" / "report.html").read_text()
    assert "The acceleration table" in page
    assert "data:image/svg+xml" in page
    assert "images with text in 2 steps are about as close to the reference" in page
    assert "Not run" not in page
    assert "the first prompts, one seed each" in page
    table = (out / "report" / "table.md").read_text()
    assert "| paper:2 | 2 of 4 | 6 | 25% |" in table
    assert "| full | 4 of 4 | 8 | 0% |" in table
    assert "GFLOPs" in table
    assert "images with text in 2 steps are about as close to the reference" in " ".join(told.stdout.split())
    assert "images with text in 2 steps are about as close to the reference" in table
    stored = pyarrow.parquet.read_table(out / "report" / "sweep" / "table.parquet").to_pylist()
    assert {row["policy"] for row in stored} == {"paper:0", "paper:2", "full"}
    assert all(row["reference"] >= 0 for row in stored)


@pytest.mark.parametrize(
    ("half", "none", "verdicts"),
    [
        ((0.98, 1.05), (4, 6), ["replicates", "replicates"]),
        ((1.2, 1.4), (4, 6), ["does not replicate", "replicates"]),
        ((0.98, 1.05), (1.0, 1.3), ["inconclusive", "inconclusive"]),
        ((np.nan, np.nan), (np.nan, np.nan), []),  # wide features
    ],
)
def test_a_reference_puts_the_paper_s_claim_to_the_test(half, none, verdicts):
    setting = Setting("pocket", "ddim", 50, 4.0)

    def condition(k, over_full):
        middle = sum(over_full) / 2
        interval = Interval(middle, *over_full, 1000)
        policy = "full" if k == 50 else f"paper:{k}"
        same = {"l1": Interval(0.1, 0.09, 0.11, 1000), "similarity": Interval(0.9, 0.8, 0.95, 1000)}
        return PolicySummary(setting, policy, k, "null", "features", 50 + k, 1000, same, interval, interval, interval)

    found = [condition(0, none), condition(25, half), condition(30, (1, 1.01)), condition(50, (1, 1))]
    finding = finding_of(found, [], [], reference=Reference("renders", "renders", lambda setting: None), unfinished=0)
    assert [claim.verdict for claim in finding.claims] == verdicts
    assert all("25 steps" in claim.statement for claim in finding.claims[:1])


def test_the_commands_refuse_what_is_not_there(tmp_path):
    tiny = ("sweep", "run", "--count", 2, "--steps", 2, "--text-steps", 1, "--out", tmp_path / "none")
    assert "'tpu'" in one_sentence(shapefirst(*tiny, "--device", "tpu"))
    assert "--ray" in one_sentence(shapefirst(*tiny, "--cores", 2))
    assert "count of at least 2" in one_sentence(shapefirst(*tiny, "--count", 1))
    assert "name a folder" in one_sentence(shapefirst(*tiny[:-1], ""))
    assert not (tmp_path / "none").exists()
    assert "There is no sweep" in one_sentence(shapefirst("sweep", "report", tmp_path / "nothing"))
    assert "There is no sweep" in one_sentence(shapefirst("sweep", "report", "memory://nothing"))
    (tmp_path / "caf\udce9.txt").write_text("a red car\na red mushroom\n")
    said = one_sentence(shapefirst(*tiny[:-2], "--prompts", tmp_path / "caf\udce9.txt", "--out", tmp_path / "none"))
    assert "The command is not UTF-8 text" in said
    (tmp_path / "manifest.json").write_text("{")
    assert "manifest" in one_sentence(shapefirst("sweep", "report", tmp_path))
    (tmp_path / "file").write_text("")
    said = one_sentence(shapefirst("sweep", "run", "--count", 2, "--steps", 20, "--out", tmp_path / "file"))
    assert "is not a folder" in said


def test_the_same_sweep_started_twice_is_run_once(tmp_path):
    out = tmp_path / "sweep"
    words = (
        "sweep",
        "run",
        "--count",
        "2",
        "--steps",
        "4",
        "--text-steps",
        "2",
        "--shard-size",
        "1",
        "--out",
        str(out),
    )
    command = [sys.executable, "-m", "shapefirst", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
        while not (out / "manifest.json").exists():
            assert first.poll() is None
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)  # in its midst, for as long as the second takes
        said = one_sentence(shapefirst(*words))
        first.send_signal(signal.SIGCONT)
    assert first.returncode == 0
    assert f"Error: {str(out)!r} is in use by process {first.pid} on " in said
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "prompts.txt", "shards"]
    assert sorted(path.name for path in (out / "shards").iterdir()) == ["000000.parquet", "000001.parquet"]


def test_a_folder_in_use_is_not_touched_and_one_of_a_run_that_was_killed_is_taken(tmp_path):
    out = tmp_path / "sweep"
    run = ("sweep", "run", "--count", 2, "--steps", 4, "--text-steps", 2, "--out", out)
    with holding(out / LOCK) as first:
        said = one_sentence(shapefirst(*run))
        assert f"process {first.pid}" in said
        assert "choose another --out" in said
        assert [path.name for path in out.iterdir()] == [LOCK]
    assert shapefirst(*run).exit_code == 0
    assert not (out / LOCK).exists()
    with holding(out / LOCK) as first:
        assert f"process {first.pid}" in one_sentence(shapefirst("sweep", "latency", out, "--batch", 1))
        assert not (out / "latency.json").exists()
    with holding(out / LOCK):  # who only reads need not wait
        assert shapefirst("sweep", "report", out, "--out", tmp_path / "report").exit_code == 0


@pytest.mark.parametrize("option", ["--batch-size", "--cores", "--shard-size", "--count"])
def test_sizes_below_one_are_refused(option, tmp_path):
    said = one_sentence(shapefirst("sweep", "run", option, 0, "--out", tmp_path / "sweep"))
    assert "must be at least 1, not 0" in said
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--dtype", "null"),
        ("--inception", "nowhere.pth"),
        ("--clip", "nowhere/at-all"),
        ("--images", "all", "--vqa", "x"),
    ],
)
def test_what_no_shard_could_do_with_is_refused_and_nothing_stays(options, tmp_path, empty_cache):
    out = tmp_path / "sweep"
    one_sentence(shapefirst("sweep", "run", "--count", 2, "--steps", 2, "--out", out, *options))
    assert not out.exists()


def test_a_sweep_alone_shows_its_help_and_no_empty_error():
    result = shapefirst("sweep")
    assert result.exit_code == 2
    assert "Usage" in result.output
    assert "Error" not in result.output


def test_words_that_pocket_never_saw_or_sees_are_named_before_they_are_sampled(tmp_path):
    (tmp_path / "prompts.txt").write_text(f"a red mushroom\na turquoise wombat{' red' * 90}\n")
    tiny = ("--steps", 2, "--text-steps", 1, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "sweep")
    result = shapefirst("sweep", "run", *tiny)
    assert result.exit_code == 0, result.output
    assert "pocket never saw 'turquoise', 'wombat'" in result.stderr
    assert "1 of 2 prompts are too long for the text encoder" in result.stderr


def test_a_run_with_given_up_shards_says_so(tmp_path, monkeypatch):
    def outcomes(*arguments):
        yield running.Outcome("000000", 8)
        yield running.Outcome("000001", failed="out of memory")

    monkeypatch.setattr(running, "run_here", outcomes)
    result = shapefirst("sweep", "run", "--steps", 4, "--count", 2, "--shard-size", 1, "--out", tmp_path / "sweep")
    assert result.exit_code == 1
    assert "000001 was given up: out of memory" in result.stderr


def test_intervals_do_not_leave_what_a_mean_can_be(finished):
    for one in summarise(finished).conditions:
        for name in ("l1", "judge", "judge-noun", "similarity"):
            found = one.metrics[name]
            assert (-1 if name == "similarity" else 0) <= found.low <= found.estimate <= found.high <= 1 + 1e-9


def test_an_unfinished_sweep_says_so_where_it_is_read(worker, tmp_path):
    grid = Grid(steps=(2,), text_steps=("1",), count=4, shard_size=2)
    store = Store(str(tmp_path / "sweep"))
    store.begin(shards_of(grid), {"weights": {"pocket": "x"}, "scores": {}})
    next(run_here(shards_of(grid), store, worker))
    told = shapefirst("sweep", "report", tmp_path / "sweep")
    assert told.exit_code == 0, told.output
    said = "Shards that are not done yet and not counted: 1."
    assert said in told.stderr
    assert said in (tmp_path / "sweep" / "report" / "table.md").read_text()
    assert said in (tmp_path / "sweep" / "report" / "report.html").read_text()
    assert "held another sweep" not in told.stderr
    other = Store(str(tmp_path / "other"))
    other.begin(shards_of(GRID), {"weights": {"pocket": "x"}, "scores": {}})
    next(run_here(shards_of(GRID), other, worker))
    told = shapefirst("sweep", "report", tmp_path / "other", "--out", tmp_path / "sweep" / "report")
    assert "held another sweep" in told.stderr


def test_kept_images_stand_side_by_side_in_the_report(worker, tmp_path):
    grid = Grid(steps=(2,), text_steps=("0", "1"), count=3, shard_size=2)
    shards, store = shards_of(grid), Store(str(tmp_path / "kept"))
    store.begin(shards, {})
    keeping = Worker("cpu", keep_images="sample", _models=worker._models)
    assert len(list(run_here(shards, store, keeping))) == 2
    conditions = summarise(store).conditions
    (picture,) = pictures_of(store, shards, conditions)
    columns = [one.policy for one in conditions]
    assert columns == ["paper:0", "paper:1", "full"]
    # The pictures of the sheet, found by their frames: three prompts of two shards under three policies.
    sheet = np.asarray(picture.image).astype(int)
    frame = (np.abs(sheet - (212, 212, 216)).sum(axis=2) == 0).astype(int)
    tops = [y for y in range(len(frame)) if frame[y].sum() > 300 and frame[y - 1].sum() < 10]
    lefts = [x for x in range(frame.shape[1]) if frame[:, x].sum() > 150 and frame[:, x - 1].sum() < 10]
    assert (len(tops[::2]), len(lefts[::2])) == (3, 3)
    for row, y in enumerate(tops[::2]):
        for policy, x in zip(columns, lefts[::2], strict=True):
            stored = Image.open(io_of(store.picture(f"00000{row // 2}", picture_name(row, policy))))
            assert stored.text["prompt"] == shards.prompts[row].text
            assert (stored.text["policy"], stored.text["seed"]) == (policy, str(row))
            stored = stored.resize((112, 112), Image.Resampling.LANCZOS)
            assert np.array_equal(sheet[y + 1 : y + 113, x + 1 : x + 113], np.asarray(stored))


def test_a_kept_image_that_was_damaged_is_named(finished):
    class Damaged:
        done, picture = finished.done, lambda *_: b"\x89PNG\r\n\x1a\n"

    with pytest.raises(ShapefirstError, match=r"'images/000000/.*\.png' \(.*mend it, or take it away"):
        pictures_of(Damaged(), shards_of(), summarise(finished).conditions)


def test_a_sweep_without_images_has_no_sheet(finished):
    assert pictures_of(finished, shards_of(), summarise(finished).conditions) == []


def test_a_wide_table_is_printed_in_parts_that_fit(monkeypatch, capsys):
    names = [f"metric {i}" for i in range(9)]
    rows = tuple((f"paper:{k}", *(f"{k}.{i} (0.1 to 0.2)" for i in range(9))) for k in (0, 5))
    narrow = Console(width=70, force_terminal=True, color_system=None)
    monkeypatch.setattr(terminal, "stdout", lambda: narrow)
    tables.summaries([Summary(("policy", *names), rows, "caption")])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 70
    assert "caption" in lines[0]
    text = "\n".join(lines)
    assert all(text.count(cell) == 1 for row in rows for cell in row[1:])
    assert all(text.count(name) == 1 for name in names)
    assert text.count("paper:5") == text.count("policy") == 3


@pytest.mark.parametrize(("kind", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")])
def test_a_store_without_its_package_says_what_to_install_and_why(monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ShapefirstError, match=f"{kind}:// is reached through {package}, which .* pip install {package}"
    ):
        Store(f"{kind}://bucket/sweep")
