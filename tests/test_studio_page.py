"""The studio in a browser: headless Chromium, one server and one browser for all, a tiny model."""

from __future__ import annotations

import copy
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from shapefirst.studio import making
from shapefirst.studio.offer import Offer
from shapefirst.studio.serving import StudioServer

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs Chromium: apt-get install chromium chromium-driver"
)
PATIENCE = 60  # seconds, on a machine that others share


@pytest.fixture(scope="module")
def pace():
    """Seconds that a step takes at least."""
    return SimpleNamespace(seconds=0.0)


@pytest.fixture(scope="module")
def address(_built, pace):
    from shapefirst.models import make_sampler

    with pytest.MonkeyPatch.context() as patch:
        pipe = copy.deepcopy(_built["sd-epsilon"])
        pipe.scheduler = make_sampler("ddim", pipe.scheduler.config)
        whole = making.denoise

        def paced(*args, **how):
            for step in whole(*args, **how):
                time.sleep(pace.seconds)
                yield step

        patch.setattr(making, "load", lambda name, **how: pipe)
        patch.setattr(making, "denoise", paced)
        server = StudioServer(Offer({"pocket": "ddim"}), 0)
        thread = threading.Thread(target=server.run)
        thread.start()
        yield server.address
        server.stop()
        thread.join(20)


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def page(driver, address, pace):
    """A fresh tab; the others are closed."""
    pace.seconds = 0.0
    first, *others = driver.window_handles
    for other in others:
        driver.switch_to.window(other)
        driver.close()
    driver.switch_to.window(first)
    driver.get("about:blank")
    driver.switch_to.new_window("tab")
    return Page(driver, address)


class Page:
    def __init__(self, driver, address):
        self.driver, self.address, self.tab = driver, address, driver.current_window_handle

    def open(self, query="?prompt=a+red+car&steps=6&policy=every:2", width=1280):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(self.address + query)
        return self.until("Ready.")

    def find(self, css):
        end = time.monotonic() + PATIENCE
        while not (found := self.driver.find_elements(By.CSS_SELECTOR, css)):
            assert time.monotonic() < end, f"there is no {css}"
            time.sleep(0.05)
        return found[0]

    def all(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css):
        return self.driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", css)

    def until(self, *words, css="#sf-status"):
        """Wait for one of the words."""
        end = time.monotonic() + PATIENCE
        while not any(word in self.text(css) for word in words):
            assert time.monotonic() < end, f"{css} says {self.text(css)!r} and not {words}"
            time.sleep(0.05)
        return self

    def generate(self):
        """Once the page is at rest: what is asked for while Gradio hangs up after an earlier answer may be lost."""
        count, end = -1, time.monotonic() + PATIENCE
        while count != (count := self.driver.execute_script("return performance.getEntriesByType('resource').length")):
            assert time.monotonic() < end
            time.sleep(0.4)
        self.find("#sf-go").click()
        return self

    def here(self):
        self.driver.switch_to.window(self.tab)
        return self

    def value(self, css):
        return self.driver.execute_script("return document.querySelector(arguments[0]).value", css)

    def is_ready(self):
        end = time.monotonic() + PATIENCE
        while not self.find("#sf-go").is_enabled():
            assert time.monotonic() < end
            time.sleep(0.05)


def test_full_and_saved_stand_side_by_side(page):
    page.open().generate().until("Done.")
    assert [cell.get_attribute("textContent") for cell in page.all("#sf-result figcaption b")] == [
        "Full guidance",
        "With the policy",
        "Difference, 4 times brighter",
    ]
    assert "50%\nevaluations saved" in page.text("#sf-result")
    assert "12 evaluations" in page.text("#sf-result")
    sizes = page.driver.execute_script(
        "return Array.from(document.querySelectorAll('#sf-result img, #sf-gallery img'), (one) => one.naturalWidth)"
    )
    assert len(sizes) == 4
    assert all(sizes)
    page.until("x0 at this step", css="#sf-moment")
    page.find("#sf-words input[value='2']").click()
    page.until("Attention of “car”", css="#sf-moment")
    page.find("#sf-same button").click()
    page.find("#sf-command textarea")
    assert "--policy every:2" in page.value("#sf-command textarea")
    assert page.value("#sf-link textarea").startswith(f"{page.address}?prompt=a+red+car")
    assert "guide(pipe, 'every:2')" in page.value("#sf-python textarea")
    assert not [one for one in page.driver.get_log("browser") if one["level"] == "SEVERE"]
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert {one for one in loaded if not one.startswith((page.address, "data:", "blob:"))} == set()


def test_the_schedule_changes_by_clicking_steps(page):
    page.open()
    page.find("#sf-strip label")
    assert [n for n, cell in enumerate(page.all("#sf-strip input")) if cell.is_selected()] == [0, 2, 4]
    page.all("#sf-strip input")[1].click()
    page.until("4 of 6 steps guided", css="#sf-said")
    assert page.value("#sf-policy input") == "steps:0-2+4"
    page.all("#sf-strip input")[0].click()
    page.until("leave the first step in", css="#sf-said")
    page.generate().until("Done.")
    assert "8 evaluations" in page.text("#sf-result")


def test_a_job_is_cancelled_and_the_next_one_runs(page, pace):
    page.open("?prompt=a+car&steps=30&policy=every:2")
    pace.seconds = 0.5
    page.generate().until("of 30")
    page.find("#sf-stop").click()
    page.until("Cancelled.")
    pace.seconds = 0.0
    page.is_ready()
    page.generate().until("Done.")


def test_three_tabs_have_places_in_the_queue(page, pace):
    pages = [page.open("?prompt=a+car&steps=30")]
    for _ in range(2):
        page.driver.switch_to.new_window("tab")
        pages.append(Page(page.driver, page.address).open("?prompt=a+dog&steps=4&policy=every:2"))
    pace.seconds = 1.0
    pages[0].here().generate().until("of 30")
    pages[1].here().generate().until("Place 1 in the queue.")
    pages[2].here().generate().until("Place 2 in the queue.")
    pages[0].here().find("#sf-stop").click()
    pace.seconds = 0.0
    pages[0].until("Cancelled.")
    for one in pages[1:]:
        one.here().until("Done.")
        assert len(one.all("#sf-gallery li")) == 1  # each tab its own


def test_bad_input_is_told_and_nothing_is_lost(page):
    page.open()
    prompt = page.find("#sf-prompt textarea")
    prompt.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    page.generate().until("There is no prompt")
    assert page.all("#sf-status [role=alert]")
    nasty = "<img src=x onerror=\"document.title='owned'\"> {{7*7}} ${7*7}"
    prompt.send_keys(nasty)
    page.is_ready()
    page.generate().until("Done.")
    assert page.driver.title == "shapefirst studio"
    assert page.find("#sf-gallery img").get_attribute("title").startswith(nasty)
    page.driver.get(page.address + "?steps=many")
    page.until("'steps' of the link")


def test_a_page_that_is_loaded_again_goes_on(page, pace):
    page.open("?prompt=a+blue+car&steps=30&policy=paper:0.5")
    pace.seconds = 0.5
    page.generate().until("of 30")
    page.driver.refresh()
    page.until("of 30")
    assert page.value("#sf-prompt textarea") == "a blue car"
    assert page.value("#sf-sampler input") == "ddim (the model's usual)"
    pace.seconds = 0.0
    page.until("Done.")
    page.driver.refresh()
    page.until("Ready.")
    assert page.value("#sf-prompt textarea") == "a blue car"
    assert len(page.all("#sf-result img")) == 3
    assert len(page.all("#sf-gallery li")) == 1
    page.driver.get(page.address)  # the page's own address begins anew
    page.until("Ready.")
    assert (page.value("#sf-prompt textarea"), page.value("#sf-policy input")) == ("a red mushroom", "budget:0.75")
    assert page.value("#sf-sampler input") == "ddim (the model's usual)"
    assert page.all("#sf-result img") == []
    assert len(page.all("#sf-gallery li")) == 1


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_stands_still_while_a_picture_forms_and_shows_it_without_scrolling(page, pace, width):
    def places():
        return page.driver.execute_script(
            "const all = document.querySelectorAll('#sf-prompt, #sf-result .sf-figure :is(img, .sf-empty)');"
            "return Array.from(all, (one) => one.getBoundingClientRect()).map("
            "(box) => [box.left, box.top, box.width].map(Math.round))"
        )

    page.open(width=width)
    before = places()
    assert len(before) == 4
    assert before[1][1] + before[1][2] < 900 - 200
    pace.seconds = 0.2
    page.generate().until("of 6")
    assert places() == before
    pace.seconds = 0.0
    page.until("Done.")
    page.find("#sf-result img")
    assert places()[:3] == before[:3]  # below them the strip of the policy has come


def test_by_keyboard_on_a_phone(page):
    page.open(width=400)
    prompt = page.find("#sf-prompt textarea")
    prompt.click()
    prompt.send_keys(" x", Keys.ENTER)
    page.until("Done.")
    page.find("#sf-strip input").send_keys(Keys.TAB)
    cells = page.all("#sf-strip input")
    cells[1].send_keys(Keys.SPACE)
    page.until("4 of 6 steps guided", css="#sf-said")
    wide = page.driver.execute_script("return document.documentElement.scrollWidth")
    assert wide <= 400
    reached = set()
    page.driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(page.driver.execute_script("return document.activeElement.closest('[id^=sf-]')?.id"))
    assert {"sf-prompt", "sf-go", "sf-policy", "sf-steps", "sf-strip", "sf-step", "sf-words", "sf-gallery"} <= reached
