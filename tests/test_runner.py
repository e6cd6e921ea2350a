"""Running studies: what is finished stays, what was stopped starts again, what does not belong together is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from shapefirst.errors import ShapefirstError
from shapefirst.findings import storage
from shapefirst.findings.finding import DoesNotApply, Finding, Study, claim
from shapefirst.findings.storage import StudySetting, load_stored
from shapefirst.measure.intervals import Rule, bootstrap
from shapefirst.models.fingerprint import fingerprint
from shapefirst.prompts import as_lines
from shapefirst.studies import STUDIES, chosen
from shapefirst.studies.runner import make_plan, make_tasks, run
from shapefirst.studies.selection import digest, source
from shapefirst.studies.subject import Subject

pytestmark = pytest.mark.usefixtures("few_will_do")

COMMON = StudySetting("pocket", "abc", "1.0", 0, 50, 4.0, "ddim", False, 0, "", "", "a machine", 0.0)

COSTS = {"f1": 41, "f5": 110}


class Fakes:
    """Studies that note that they ran; ``act[name]`` is called in the middle of a run."""

    def __init__(self):
        self.ran, self.act = [], {}

    def study(self, name, needs="prompts"):
        def measure(subject, items):
            subject.meter.expect(2 * len(items))
            for _ in items:
                subject.meter.add(1)
            self.act.get(name, lambda: None)()
            for _ in items:
                subject.meter.add(1)
            self.ran.append(name)
            values = [float(len(item.text)) if needs == "prompts" else 1.0 for item in items]
            found = claim(
                f"The claim of {name}.",
                paper="yes",
                quantity="letters",
                found=bootstrap(values),
                rule=Rule("above", 0),
            )
            return Finding((found,), {"value": values})

        return Study(
            name, f"Title of {name}", f"Does {name}?", "Yes.", needs, 8, measure, COSTS.get(name, 100), quick=4
        )


@pytest.fixture
def fakes():
    return Fakes()


class Run:
    """make_plan and run, with what they told."""

    def __init__(self, out, studies, *, common=COMMON, count=None, force=False):
        self.progress, self.done, self.pages = [], [], []
        tasks = make_tasks(studies, source(seed=common.seed), common, count, lambda name: f"shapefirst study {name}")
        self.plan = make_plan(tasks, out, force=force)
        self.total = sum(task.cost for task in self.plan.tasks)
        self._out = out

    def go(self):
        def page(out):
            self.pages.append(sorted(path.name for path in out.iterdir()))
            return out / "report.html"

        run(
            self.plan,
            self._out,
            Subject("pocket", None, {}),
            on_progress=self.progress.append,
            on_done=lambda stored: self.done.append(stored.name),
            write_report=page,
        )
        return self


def test_results_are_stored_one_by_one_and_the_page_after_each(tmp_path, fakes):
    it = Run(tmp_path, [fakes.study("f1"), fakes.study("f4", "pairs")]).go()
    assert it.done == fakes.ran == ["f1", "f4"]
    assert it.pages == [["f1"], ["f1", "f4"]]
    stored = load_stored(tmp_path, "f4")
    assert stored.claims[0].verdict == "replicates"
    assert stored.setting.count == stored.claims[0].found.n == 8
    assert stored.setting.command == "shapefirst study f4"
    assert 0 <= stored.setting.seconds < 60


def test_progress_grows_by_the_cost_of_each_study_up_to_the_total(tmp_path, fakes):
    it = Run(tmp_path, [fakes.study("f1"), fakes.study("f5")]).go()
    assert it.total == pytest.approx(COSTS["f1"] + COSTS["f5"])
    assert it.progress == sorted(it.progress)
    assert it.progress[7] == pytest.approx(COSTS["f1"] / 2)
    assert it.progress[-1] == pytest.approx(it.total)


def test_a_study_costs_less_with_fewer_prompts_and_steps(tmp_path, fakes):
    half = Run(tmp_path, [fakes.study("f1")], common=replace(COMMON, steps=25, quick=True))
    assert half.total == pytest.approx(COSTS["f1"] / 4)


def test_an_interrupted_study_leaves_nothing_and_starts_again(tmp_path, fakes):
    studies = [fakes.study("f1"), fakes.study("f4"), fakes.study("a2")]

    def stop():
        raise KeyboardInterrupt

    fakes.act["f4"] = stop
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, studies).go()
    assert [path.name for path in tmp_path.iterdir()] == ["f1"]

    fakes.act.clear()
    again = Run(tmp_path, studies)
    assert [stored.name for stored in again.plan.kept] == ["f1"]
    assert again.go().done == ["f4", "a2"]
    assert fakes.ran == ["f1", "f4", "a2"]
    assert Run(tmp_path, studies).plan.tasks == ()


def test_what_does_not_apply_is_stored_with_its_reason_and_kept(tmp_path, fakes):
    def refuse():
        raise DoesNotApply("T5 has no [SOS].")

    fakes.act["f3"] = refuse
    it = Run(tmp_path, [fakes.study("f3"), fakes.study("f4")]).go()
    assert it.done == ["f3", "f4"]
    assert load_stored(tmp_path, "f3").reason == "T5 has no [SOS]."
    assert load_stored(tmp_path, "f3").claims == ()
    assert it.progress[-1] == pytest.approx(it.total)
    assert Run(tmp_path, [fakes.study("f3")]).plan.tasks == ()


def test_another_error_stops_the_run_and_what_was_finished_stays(tmp_path, fakes):
    def fail():
        raise ShapefirstError("The prompt is too long.")

    fakes.act["f4"] = fail
    with pytest.raises(ShapefirstError, match="too long"):
        Run(tmp_path, [fakes.study("f1"), fakes.study("f4"), fakes.study("a2")]).go()
    assert [path.name for path in tmp_path.iterdir()] == ["f1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "sd15"}, "model sd15 instead of pocket"),
        ({"fingerprint": "def"}, "other weights"),
        ({"fingerprint": "abc+clip openai/clip"}, "scores by clip openai/clip instead of the default"),
        ({"seed": 3}, "seed 3 instead of 0"),
        ({"steps": 20}, "steps 20 instead of 50"),
        ({"guidance_scale": 7.5}, "guidance scale 7.5 instead of 4.0"),
        ({"sampler": "euler"}, "sampler euler instead of ddim"),
        ({"quick": True}, "number of prompts 4 instead of 8"),
    ],
)
def test_results_of_another_setting_are_refused_and_replaced_by_force(tmp_path, fakes, change, said):
    Run(tmp_path, [fakes.study("f4")], common=replace(COMMON, **change)).go()
    with pytest.raises(ShapefirstError, match="--force") as error:
        Run(tmp_path, [fakes.study("f1"), fakes.study("f4")])
    assert said in str(error.value)
    assert fakes.ran == ["f4"]

    Run(tmp_path, [fakes.study("f1"), fakes.study("f4")], force=True).go()
    assert fakes.ran == ["f4", "f1", "f4"]
    assert load_stored(tmp_path, "f4").setting.model == "pocket"
    Run(tmp_path, [fakes.study("f1"), fakes.study("f4")], force=True).go()
    assert fakes.ran == ["f4", "f1", "f4"], "of the same setting they are kept, also by force"


def test_results_of_another_version_are_kept_and_those_of_another_format_refused(tmp_path, fakes, monkeypatch):
    Run(tmp_path, [fakes.study("f4")], common=replace(COMMON, version="0.9")).go()
    assert [stored.setting.version for stored in Run(tmp_path, [fakes.study("f4")]).plan.kept] == ["0.9"]
    monkeypatch.setattr(storage, "FORMAT", 2)
    with pytest.raises(ShapefirstError, match=r"its format is 1, and this version reads 2\): delete the folder"):
        Run(tmp_path, [fakes.study("f4")])


def test_results_of_other_studies_must_be_of_the_same_model_too(tmp_path, fakes):
    Run(tmp_path, [fakes.study("f1")], common=replace(COMMON, model="sd15")).go()
    with pytest.raises(ShapefirstError, match=r"f1 .*model sd15 instead of pocket.* report would show both"):
        Run(tmp_path, [fakes.study("f4")])
    forced = Run(tmp_path, [fakes.study("f4")], force=True)
    assert forced.plan.strangers == ("f1",)
    forced.go()
    assert load_stored(tmp_path, "f1").setting.model == "sd15"


def test_other_studies_may_have_another_number_of_prompts(tmp_path, fakes):
    Run(tmp_path, [fakes.study("f1")], count=5).go()
    assert Run(tmp_path, [fakes.study("f4")], count=6).plan.strangers == ()


def test_names_are_found_in_any_case_and_come_in_the_order_of_the_report():
    assert chosen(["A2", "f1", "F1"]) == ["f1", "a2"]
    assert set(chosen(["all"])) <= set(STUDIES)
    assert "f4" in chosen(["ALL", "f4"])
    with pytest.raises(ShapefirstError, match=r"no study 'f9': choose from f1, .*, or all"):
        chosen(["f1", "f9"])
    with pytest.raises(ShapefirstError, match="Say which"):
        chosen([])


def test_pockets_prompts_alternate_between_colours_and_textures():
    prompts = source().draw("prompts", 64)
    assert Counter(prompt.source for prompt in prompts[:6]) == {"colour": 3, "texture": 3}
    assert Counter(prompt.source for prompt in prompts) == {"colour": 32, "texture": 32}
    assert len({prompt.text for prompt in prompts}) == 64
    pairs = source().draw("pairs", 6)
    assert Counter(pair.target.source for pair in pairs) == {"colour": 3, "texture": 3}
    assert all(pair.source.content.isdisjoint(pair.target.content) for pair in pairs)


@pytest.mark.parametrize("needs", ["prompts", "pairs"])
def test_fewer_prompts_are_the_first_of_more_and_the_seed_chooses_them(needs):
    assert source(seed=1).draw(needs, 4) == source(seed=1).draw(needs, 40)[:4]
    assert source(seed=1).draw(needs, 4) != source(seed=2).draw(needs, 4)


def test_prompts_of_a_file_get_their_kind_and_each_counts_once(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("a red car\na glass cat\na glass cat\nA dog sleeps.\na red car and a wooden key\n")
    prompts = source(file).draw("prompts", 10)
    assert {prompt.text: prompt.source for prompt in prompts} == {
        "a red car": "colour",
        "a glass cat": "texture",
        "A dog sleeps.": "text",
        "a red car and a wooden key": "text",
    }
    assert len(prompts) == 4
    assert len(source(file).draw("pairs", 2)) == 2


def test_pairs_of_a_file_are_taken_as_they_are_and_give_the_prompts_too(tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("a red car\ta glass cat\na blue key\ta wooden hat\n")
    given = source(pairs_file=file)
    assert sorted(as_lines(given.draw("pairs", 10)).splitlines()) == sorted(file.read_text().splitlines())
    assert {p.text for p in given.draw("prompts", 9)} == {"a red car", "a glass cat", "a blue key", "a wooden hat"}


def test_prompts_that_all_share_a_word_make_no_pairs(tmp_path):
    file = tmp_path / "cars.txt"
    file.write_text("a red car\na blue car\n")
    assert len(source(file).draw("prompts", 4)) == 2
    with pytest.raises(ShapefirstError, match="share a noun or an attribute"):
        source(file).draw("pairs", 4)


def test_digests_tell_prompts_and_their_order_apart():
    a, b = source().draw("prompts", 2)
    assert len({digest([a, b]), digest([b, a]), digest([a])}) == 3


def test_fingerprints_see_names_sizes_and_both_ends_of_weights(tmp_path):
    def of(name, content):
        folder = tmp_path / str(len(seen))
        (folder / "unet").mkdir(parents=True)
        (folder / "unet" / name).write_bytes(content)
        (folder / "config.json").write_text(str(len(seen)))
        seen.append(fingerprint(folder, {"clip": None}))
        return seen[-1]

    seen: list[str] = []
    zeros = bytearray(3 * 2**20)
    same = [of("a.safetensors", zeros), of("a.safetensors", zeros)]
    first, last = zeros.copy(), zeros.copy()
    first[0] = last[-1] = 1
    others = [of("b.safetensors", zeros), of("a.safetensors", first), of("a.safetensors", last)]
    others.append(of("a.safetensors", zeros[1:]))
    assert same[0] == same[1]
    assert len({same[0], *others}) == 5
    assert all(len(value) == 12 and int(value, 16) >= 0 for value in seen)
    assert fingerprint(tmp_path / "0", {"clip": None, "vqa": "x/y"}) == f"{same[0]}+vqa x/y"
