"""The studio without a browser: settings and links, the strip, the queue, what a job makes, what the server gives."""

from __future__ import annotations

import io
import shlex
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from commands import one_sentence, shapefirst
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shapefirst import TextSchedule
from shapefirst.errors import ShapefirstError
from shapefirst.policies.file import PolicyFile, model_digest, sampler_digest, write_policy
from shapefirst.policies.words import parse_policy
from shapefirst.studio import making
from shapefirst.studio.looking import bands_of, map_over, preview_of
from shapefirst.studio.making import Studio
from shapefirst.studio.offer import Offer, make_offer
from shapefirst.studio.repeating import command_of, python_of
from shapefirst.studio.settings import StudioSettings, link_of, settings_of_link
from shapefirst.studio.shelf import Hung, Shelf
from shapefirst.studio.showing import gallery_html, progress_html, result_html, status_html
from shapefirst.studio.strip import strip_of, words_of_strip
from shapefirst.studio.turns import Turns

TOKEN = "0123456789abcdef" * 2
SETTINGS = StudioSettings("a red car", model="tiny", steps=6, policy="every:2")


@pytest.fixture
def studio(make_pipe, monkeypatch):
    """Of a tiny model, which is there at once."""
    monkeypatch.setattr(making, "load", lambda name, **how: make_pipe())
    return Studio(Offer({"tiny": "ddim"}))


@pytest.fixture
def turns():
    queue = Turns()
    yield queue
    queue.close()


def over(ticket, seconds=30):
    """The ticket, once its job has ended."""
    end = time.monotonic() + seconds
    while not ticket.is_over and time.monotonic() < end:
        time.sleep(0.005)
    assert ticket.is_over
    return ticket


def made(studio, turns, settings):
    ticket = over(turns.submit("tab", partial(studio.make, studio.offer.completed(settings))))
    assert ticket.state == "done", ticket.sentence
    return ticket.result


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_link_gives_the_settings_back():
    for settings in (
        StudioSettings(),
        StudioSettings("a & b = <c> ü 🦊", second="x\ny", seed=3, images=2, guidance=2.5, width=64, policy="paper:0.5"),
    ):
        assert settings_of_link(link_of(settings)) == settings
    assert settings_of_link("?__theme=dark") is None


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("?prompt=", "There is no prompt"),
        (f"?prompt={'x' * 1001}", "1,001 characters, and a prompt at most 1,000"),
        ("?steps=201", "The number of steps must be at most 200, not 201"),
        ("?steps=many", "'steps' of the link"),
        ("?images=5", "The number of images must be at most 4, not 5"),
        ("?width=99999", "The width must be at most 1,536, not 99999"),
        ("?height=100", "The height must be a multiple of 8 pixels, not 100"),
        ("?seed=-1", "The seed must be from 0"),
        ("?guidance=nan", "The guidance scale must be a finite number"),
        ("?prompt=a%00b", "control character U\\+0000"),
        ("?model_path=/etc", "The entry 'model_path' of the link is none"),
        ("?" + "&".join(f"a{n}=1" for n in range(60)), "more than 50 things"),
    ],
)
def test_a_link_that_asks_for_too_much_is_told_so(link, said):
    with pytest.raises(ShapefirstError, match=said):
        settings_of_link(link)


def test_what_was_not_named_at_the_start_is_not_to_be_had(tmp_path):
    """A visitor's words are names, and no path of the disk is ever looked for."""
    (tmp_path / "policy.json").write_text("{}")
    offer = make_offer([])
    assert offer.completed(StudioSettings()) == StudioSettings(sampler="ddim", guidance=4.0)
    for settings, said in (
        (StudioSettings(model=str(tmp_path)), "There is no model .* in this studio"),
        (StudioSettings(model="sd15"), "start it with --model"),
        (StudioSettings(policy=str(tmp_path / "policy.json")), "There is no policy"),
        (StudioSettings(sampler="magic"), "There is no sampler 'magic'"),
        (StudioSettings(policy="paper:26"), "guides the first 26 steps"),
    ):
        with pytest.raises(ShapefirstError, match=said):
            offer.completed(settings)
    with pytest.raises(ShapefirstError, match="There is no report"):
        make_offer([], reports=[str(tmp_path)])


# --- the strip --------------------------------------------------------------------------------------------------------

POLICIES = (
    "full",
    "paper:3",
    "text:0.5",
    "budget:0.75",
    "every:2,keep=text",
    "steps:0+4,order=2",
    "growing:2x1.5,keep=null",
)


@given(st.sampled_from(POLICIES), st.sets(st.integers(0, 11)))
def test_steps_that_were_clicked_on_are_a_policy(words, clicked):
    policy = parse_policy(words)
    if policy.order is not None or words == "full":
        clicked = clicked | {0}
    again = parse_policy(words_of_strip(policy, clicked, 12))
    assert again.guided_steps(12) == clicked
    if len(clicked) < 12 and words != "full":
        assert (again.keep, again.order) == (policy.keep, policy.order)


@pytest.mark.parametrize(
    ("sampler", "last"), [("", 2), ("own", 2), ("ddim", 2), ("dpm-solver", 2), ("dpm-solver-karras", 1), ("deis", 3)]
)
def test_a_strip_shows_where_the_steps_of_a_budget_lie_with_the_sampler(sampler, last):
    offer = make_offer(["pocket"])
    shown = strip_of(offer.shown_policy(StudioSettings(policy="budget:0.6", steps=20, sampler=sampler)), 20)
    assert sorted(shown.guided)[-last:] == list(range(20 - last, 20))
    assert 20 - last - 1 not in shown.guided
    with pytest.raises(ShapefirstError, match="There is no sampler"):
        offer.shown_policy(StudioSettings(policy="budget:0.6", steps=20, sampler="nosuch"))


def test_a_strip_says_what_it_cannot_show():
    assert strip_of(TextSchedule.until(2), 4).guided == {0, 1}
    told = strip_of(parse_policy("tol:0.01"), 4)
    assert told.guided is None
    assert "known when the picture is there" in told.said
    with pytest.raises(ShapefirstError, match="cannot be chosen"):
        words_of_strip(parse_policy("tol:0.01"), [0], 4)
    with pytest.raises(ShapefirstError, match="leave the first step in"):
        words_of_strip(parse_policy("every:2"), [1], 4)


# --- the queue --------------------------------------------------------------------------------------------------------


def test_one_job_at_a_time_and_the_others_have_places(turns):
    gate, ran = threading.Event(), []

    def work(name, ticket):
        ran.append(name)
        while not gate.is_set():
            ticket.breathe()
            time.sleep(0.002)
        return name

    tickets = [turns.submit(name, partial(work, name)) for name in "abc"]
    assert [ticket.place for ticket in tickets] == [0, 1, 2]
    with pytest.raises(ShapefirstError, match="A picture of this tab is in the making"):
        turns.submit("b", partial(work, "b"))
    assert turns.errand(lambda: 6 * 7).result(5) == 42  # while a job runs
    tickets[1].cancel()
    assert tickets[1].state == "cancelled"
    assert tickets[2].place == 1
    gate.set()
    assert [over(ticket).state for ticket in tickets] == ["done", "cancelled", "done"]
    assert ran == ["a", "c"]


def test_a_job_that_fails_says_why_and_the_next_one_runs(turns):
    def overflow(ticket):
        raise MemoryError

    def refuse(ticket):
        raise ShapefirstError("No.")

    failed = over(turns.submit("a", overflow))
    assert (failed.state, failed.sentence) == ("failed", "This failed with MemoryError: MemoryError.")
    assert over(turns.submit("a", refuse)).sentence == "No."
    assert over(turns.submit("a", lambda ticket: "made")).result == "made"
    with pytest.raises(ZeroDivisionError):
        turns.errand(lambda: 1 / 0).result(5)


def test_a_queue_that_closes_waits_for_the_step_alone():
    turns, began = Turns(), threading.Event()

    def work(ticket):
        while True:
            began.set()
            ticket.breathe()
            time.sleep(0.01)

    first, second = turns.submit("a", work), turns.submit("b", work)
    assert began.wait(5)
    turns.close()
    assert (first.state, second.state) == ("cancelled", "cancelled")


def test_a_job_that_nobody_looks_at_makes_room():
    turns = Turns(most=1, patience=0.1)

    def work(ticket):
        while True:
            ticket.breathe()
            time.sleep(0.01)

    first, second = turns.submit("a", work), None
    while first.state == "waiting":
        time.sleep(0.002)
    second = turns.submit("b", lambda ticket: 1)
    with pytest.raises(ShapefirstError, match="1 jobs in the queue already"):
        turns.submit("c", work)
    assert over(first).state == "cancelled"
    assert over(second).is_over


# --- what is made -----------------------------------------------------------------------------------------------------


def test_the_saved_picture_stands_beside_the_full_one(studio, turns):
    outcome = made(studio, turns, replace(SETTINGS, images=2))
    full, saved = outcome.runs["full"], outcome.runs["saved"]
    assert [result.seed for result in saved.results] == [0, 1]
    assert (full.results[0].evaluations, saved.results[0].evaluations) == (12, 6)
    assert saved.spent == (2, 0, 2, 0, 2, 0)
    assert outcome.comparison.evaluations_saved == 0.5
    assert len(full.x0) == 6
    again = made(studio, turns, replace(SETTINGS, images=2, policy="paper:3"))
    assert again.runs["full"] is full  # which no policy changes
    assert [word for word, _ in outcome.words] == ["a", "red", "car"]


def test_a_job_stops_within_a_step(studio, turns, monkeypatch):
    steps, reached = [], threading.Event()
    whole = making.denoise

    def counted(*args, **how):
        for step in whole(*args, **how):
            if how["num_inference_steps"] == 200:
                steps.append(step.index)
                if step.index == 3:
                    reached.set()
                    time.sleep(0.05)
            yield step

    monkeypatch.setattr(making, "denoise", counted)
    ticket = turns.submit("tab", partial(studio.make, studio.offer.completed(replace(SETTINGS, steps=200))))
    assert reached.wait(30)
    ticket.cancel()
    assert over(ticket).state == "cancelled"
    assert steps == [0, 1, 2, 3]
    assert made(studio, turns, SETTINGS)  # and the pipeline is as it was


@pytest.mark.parametrize("sides", [{"width": 64, "height": 72}, {"height": 72}], ids=["both", "one"])
def test_what_is_copied_makes_the_same_picture(make_pipe, turns, tmp_path, monkeypatch, sides):
    monkeypatch.chdir(tmp_path)
    make_pipe().save_pretrained("tiny")
    studio = Studio(make_offer(["tiny"]))
    settings = studio.offer.completed(replace(SETTINGS, negative="blue", **sides))
    outcome = made(studio, turns, settings)
    result = shapefirst(*shlex.split(command_of(settings))[1:])
    assert result.exit_code == 0, result.output
    names = {"full": "a-red-car*_full.png", "saved": "a-red-car*_every-2-of6.png"}
    for name, pattern in names.items():
        (file,) = (tmp_path / "out").glob(pattern)
        assert np.array_equal(Image.open(file), outcome.runs[name].results[0].image), name
    assert np.array_equal(ran(python_of(settings))[0], outcome.runs["saved"].results[0].image)


def test_a_model_is_sampled_as_it_came_unless_another_sampler_is_named(make_pipe, turns, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe = make_pipe(sampler="dpm-solver-karras")
    pipe.save_pretrained("tiny")
    studio = Studio(make_offer(["tiny"]))
    settings = studio.offer.completed(replace(SETTINGS, width=64, height=72))
    assert settings.sampler == "own"
    drawn = made(studio, turns, settings)
    size = {"width": 64, "height": 72, "guidance_scale": settings.guidance, "num_inference_steps": 6}
    stock = type(pipe).from_pretrained("tiny")(
        "a red car", generator=torch.Generator().manual_seed(0), output_type="np", **size
    )
    assert np.abs(np.asarray(drawn.runs["full"].results[0].image) / 255 - stock.images[0]).max() < 0.01
    shelf = Shelf()
    tab = shelf.tab(TOKEN)
    result_html(drawn, shelf, tab)
    assert tab.hung[0].said.endswith("6 steps of the model's own sampler")

    named = made(studio, turns, replace(settings, sampler="ddim"))
    assert not np.array_equal(named.runs["full"].results[0].image, drawn.runs["full"].results[0].image)


def ran(lines):
    """The images that Python of the studio makes."""
    names: dict = {}
    exec(lines, names)
    return names["images"]


def test_a_second_prompt_gives_its_eos(studio, turns, make_pipe, monkeypatch):
    settings = studio.offer.completed(replace(SETTINGS, second="a blue house", images=2))
    outcome = made(studio, turns, settings)
    assert list(outcome.runs) == ["full", "saved", "switched", "second"]
    pictures = [np.asarray(run.results[0].image) for run in outcome.runs.values()]
    assert not np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[2], pictures[3])
    monkeypatch.setattr("shapefirst.load", lambda name, sampler: make_pipe(sampler=sampler))
    for image, result in zip(ran(python_of(settings)), outcome.runs["switched"].results, strict=True):
        assert np.array_equal(image, result.image)


def test_a_tuned_policy_is_chosen_by_its_name(studio, turns, make_pipe, tmp_path):
    pipe = make_pipe()
    digests = model_digest(pipe), "DDIMScheduler", sampler_digest(pipe.scheduler)
    file = tmp_path / "policy.json"
    write_policy(PolicyFile("tiny", *digests, 7.5, 6, (0, 1, 4), "neither", 1), file)
    offer = replace(make_offer([], [str(file)]), models={"tiny": "ddim"})
    studio.offer = offer
    assert made(studio, turns, replace(SETTINGS, policy=str(file))).runs["saved"].spent == (2, 2, 0, 0, 2, 0)
    with pytest.raises(ShapefirstError, match="made for 6 steps, but this generation has 7"):
        offer.completed(replace(SETTINGS, policy=str(file), steps=7))


def test_a_tuned_policy_of_fewer_steps_stands_beside_the_run_whose_place_it_takes(studio, turns, make_pipe, tmp_path):
    pipe, file = make_pipe(), tmp_path / "policy.json"
    digests = model_digest(pipe), "DDIMScheduler", sampler_digest(pipe.scheduler)
    tuned = PolicyFile("tiny", *digests, 7.5, 4, (0, 1), "neither", 1, measured={"full guidance at steps": 6})
    write_policy(tuned, file)
    studio.offer = replace(make_offer([], [str(file)]), models={"tiny": "ddim"})
    settings = studio.offer.completed(replace(SETTINGS, policy=str(file)))
    outcome = made(studio, turns, settings)
    assert (outcome.runs["full"].spent, outcome.runs["saved"].spent) == ((2,) * 6, (2, 2, 0, 0))
    strip = strip_of(tuned.schedule, 6)
    assert (strip.guided, strip.said) == (None, "2 of 4 steps guided, extrapolated between, in the place of the 6")
    assert "num_inference_steps=4" in python_of(settings, tuned)
    with pytest.raises(ShapefirstError, match="cannot be chosen"):
        words_of_strip(tuned.schedule, [0], 6)


def test_a_step_can_be_looked_into(studio, turns):
    outcome = made(studio, turns, SETTINGS)
    assert over(turns.submit("tab", partial(studio.read_maps, outcome))).state == "done"
    assert sorted(outcome.maps) == [*range(6)]
    pipe = studio.loaded("tiny")
    assert studio.loaded("other") is None
    image = preview_of(pipe, outcome.runs["full"].x0[2][0])
    low, high = (np.asarray(band, float) for band in bands_of(image))
    assert np.abs(low + high - 127.5 - np.asarray(image)).mean() < 3  # but for what was cut off at black and white
    seen = map_over(image, outcome.maps[2][0], outcome.words[1][1])
    assert seen.size == image.size
    assert np.asarray(seen).mean() < np.asarray(image).mean()


def test_previews_are_told_between_the_steps(studio, turns, monkeypatch):
    monkeypatch.setattr(making, "SOONEST", 0)
    monkeypatch.setattr(making, "SHARE", -1)
    seen = []
    ticket = turns.submit("tab", lambda ticket: studio.make(studio.offer.completed(SETTINGS), ticket))
    tell = ticket.tell
    ticket.tell = lambda news: (seen.append(news), tell(news))
    over(ticket)
    previews = [news for news in seen if news.preview]
    assert {news.name for news in previews} == {"full", "saved"}
    assert {*previews[-1].finished} == {"full"}
    shown = progress_html(previews[-1], ["full", "saved"])
    assert (shown.count("data:image/jpeg"), shown.count("<figure")) == (2, 3)  # and a place for the difference


@pytest.mark.parametrize("kind", ["pixart", "sdxl"])
def test_any_model_that_load_takes(make_pipe, monkeypatch, turns, kind):
    monkeypatch.setattr(making, "load", lambda name, **how: make_pipe(kind))
    outcome = made(
        Studio(Offer({"tiny": "dpm-solver"})), turns, replace(SETTINGS, sampler="dpm-solver", policy="tol:0.01")
    )
    assert len(outcome.runs["saved"].spent) == 6


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_a_prompt_is_shown_as_text(studio, turns):
    nasty = "<img src=x onerror=alert(1)> {{7*7}} ${7*7} [x](javascript:1) \"'"
    shelf = Shelf()
    tab = shelf.tab(TOKEN)
    outcome = made(studio, turns, replace(SETTINGS, prompt=nasty))
    shown = result_html(outcome, shelf, tab) + gallery_html(tab, [link_of(one.settings) for one in tab.hung])
    assert "<img src=x" not in shown
    assert "javascript:1) &#34;&#39;" in shown
    assert "49" not in shown.replace("0.49", "")[: shown.find("evaluations saved")]
    assert "<b>" not in status_html("<b>no</b>")
    key = tab.hung[0].address.split("/")[1]
    text = Image.open(io.BytesIO(shelf.picture(key))).text
    assert text["prompt"] == nasty
    assert (text["policy"], text["seed"], text["num_inference_steps"]) == ("every:2", "0", "6")


def test_a_single_pass_tells_no_share_of_the_time_and_equal_pictures_are_identical(studio, turns):
    shelf = Shelf()
    shown = [
        result_html(made(studio, turns, replace(SETTINGS, policy=policy)), shelf, shelf.tab(TOKEN))
        for policy in ("every:2", "steps:0-5")
    ]
    for html in shown:
        assert "time saved" not in html
        assert html.count(" s</span>") == 2  # of each run, as a plain fact
    assert "<dd>50%</dd>" in shown[0]
    assert "difference.png" in shown[0]
    assert shown[1].count("<dd>identical</dd>") == 2
    assert "No difference" in shown[1]
    assert "difference.png" not in shown[1]


def test_code_in_a_sentence_is_shown_as_code():
    assert '<p class="sf-note">Say <code>a &lt; b</code> or `c.</p>' in status_html("", notes=["Say `a < b` or `c."])


def test_the_shelf_forgets_the_oldest():
    shelf = Shelf(most_bytes=25, most_tabs=2)
    first, second, third = (shelf.keep(b"x" * 10, "a b.png").split("/")[1] for _ in range(3))
    assert shelf.picture(first) is None
    assert shelf.picture(second) == shelf.picture(third) == b"x" * 10
    tab = shelf.tab(TOKEN)
    shelf.hang(tab, [Hung(SETTINGS, seed, "", "") for seed in range(30)])
    assert len(tab.hung) == 24
    assert shelf.tab(TOKEN) is tab
    for other in ("1" * 32, "2" * 32):
        shelf.tab(other)
    assert shelf.tab(TOKEN) is not tab
    for token in ("", "../../etc/passwd", None):
        with pytest.raises(ShapefirstError, match="lost its place"):
            shelf.tab(token)


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.fixture
def visitor(tmp_path, turns):
    from starlette.testclient import TestClient

    from shapefirst.studio.serving import studio_app

    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "report.html").write_text("<p>found</p>")
    offer = make_offer([], reports=[str(tmp_path / "it")])
    return TestClient(studio_app(offer, turns), base_url="http://127.0.0.1:7860")


def test_the_server_gives_the_page_and_nothing_of_the_disk(visitor, tmp_path):
    page = visitor.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "fonts.googleapis" not in page.text + visitor.get("/theme.css").text
    report = visitor.get("/reports/0")
    assert report.text == "<p>found</p>"
    assert "sandbox" in report.headers["content-security-policy"]
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (
        f"/gradio_api/file={secret}",
        f"/file={secret}",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:7860/",
        "/gradio_api/proxy=http://127.0.0.1:7860/",
        "/static/../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets//etc/passwd",
        "/reports/1",
        "/reports/../../etc/passwd",
        "/pictures/x/etc.png",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/monitoring",
        "/docs",
    ):
        found = visitor.get(path)
        assert found.status_code in (404, 422, 403), path
        assert "secret" not in found.text
        assert "root:" not in found.text
    for path in ("/gradio_api/upload", "/gradio_api/run/predict", "/gradio_api/call/x", "/login"):
        assert visitor.post(path, files={"files": b"x"}).status_code == 404, path
    assert visitor.get("/", headers={"host": "evil.example"}).status_code == 421


def test_the_command_says_what_stands_in_its_way(monkeypatch, tmp_path):
    import socket

    from shapefirst.studio import serving

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"The port {port} cannot be listened on" in one_sentence(shapefirst("studio", "--port", port))
    assert "choose another --port" in one_sentence(shapefirst("studio", "--port", 70_000))
    assert "There is no model" in one_sentence(shapefirst("studio", "--model", tmp_path / "none"))
    monkeypatch.setattr(serving.StudioServer, "run", lambda server: server.close())
    open_to_all = shapefirst("studio", "--port", 0, "--listen")
    assert open_to_all.exit_code == 0, open_to_all.output
    assert "without a password" in open_to_all.stderr
    assert open_to_all.stdout.startswith("Studio: http://127.0.0.1:")
    assert shapefirst("studio", "--port", 0).stderr == ""
