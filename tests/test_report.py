"""The report says what was found, in one page that needs nothing else and trusts no text."""

import base64
import math
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from PIL import Image

from shapefirst.drawing.notation import duration, number, one_of, plural, reach
from shapefirst.errors import ShapefirstError
from shapefirst.findings.comparison import compared, load_models
from shapefirst.findings.finding import Chart, Claim, Finding, Picture, Study, Summary, claim
from shapefirst.findings.order import STUDIES
from shapefirst.findings.storage import Stored, StudySetting, load_all, save, save_inapplicable
from shapefirst.measure.intervals import Interval, Rule
from shapefirst.report import render_models, render_report, write_report

HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'> & ein Käse 奶酪 🧀 {{ title }} " + "long " * 200
SETTING = StudySetting(
    "pocket", "abc", "0.1.0", 7, 50, 7.5, "ddim", False, 64, "d", "shapefirst study f4 --seed 7", "2 cores", 12.5
)
VERDICTS = ("replicates", "does not replicate", "inconclusive", "does not apply")
# As matplotlib writes it: a size in points, and ids that every chart has.
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 180"><g id="figure_1"><path id="m1" d="M0 0"/></g></svg>'
)
VOID = {"meta", "img", "br", "wbr", "rect", "line", "circle"}


class Page(HTMLParser):
    """Every element with its attributes, the text outside <style>, and whether all elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def claims():
    return tuple(
        Claim(
            f"Claim {n}. {HOSTILE}",
            HOSTILE,
            HOSTILE,
            Interval(0.72, 0.61, 0.83, 40 + n),
            Rule("above", 0.5),
            which,
            HOSTILE,
        )
        for n, which in enumerate(VERDICTS)
    )


def finding(**changes):
    return replace(
        Finding(
            claims=claims(),
            table={"prompt": [HOSTILE]},
            summaries=(Summary((HOSTILE, "n"), ((HOSTILE, HOSTILE), ("b", "2")), HOSTILE), Summary(("a",), (("b",),))),
            charts=(Chart("one", SVG, HOSTILE, HOSTILE), Chart("two", SVG, "Caption.", "")),
            pictures=(Picture("sheet", Image.new("RGB", (3000, 40), "red"), HOSTILE, HOSTILE),),
            method=f"First.\n\n{HOSTILE}",
            evaluations=460,
            evaluations_apart=1300,
        ),
        **changes,
    )


def study(name, needs="prompts"):
    return Study(name, f"Title of {name} {HOSTILE}", HOSTILE, HOSTILE, needs, 64, lambda *_: None)


@pytest.fixture
def out(tmp_path):
    setting = replace(SETTING, command=f"shapefirst study '{HOSTILE}'", machine=HOSTILE)
    save(tmp_path, study("f4", "pairs"), finding(), setting)
    save(tmp_path, study("f1"), finding(), replace(setting, count=24))
    save_inapplicable(tmp_path, study("f3"), f"No [SOS]. {HOSTILE}", setting)
    return tmp_path


@pytest.fixture
def page(out):
    return Page(render_report(load_all(out)))


def test_text_is_text_whatever_it_says(page):
    assert page.all("script") == []
    assert all("onerror" not in attributes for _, attributes in page.elements)
    whole = " ".join(HOSTILE.split())
    # Wherever such a text is shown, all of it is.
    assert page.words.count(whole) == page.words.count("<script>") > 20


@pytest.mark.parametrize("sampled", ["sampler", "words"])
def test_names_of_models_samplers_and_weights_are_text_too(tmp_path, sampled):
    name = '/home/ich/it\'s "my" models/'
    names = dict.fromkeys(("model", "fingerprint", "version", sampled), f"{name}{HOSTILE}")
    save(tmp_path, study("f4"), finding(), replace(SETTING, **names))
    page = Page(render_report(load_all(tmp_path)))
    assert page.all("script") == []
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert page.words.count(name) == 2 + 4 + 2  # the title, at the top, "Run with"


def test_the_page_asks_nothing_of_a_network(out):
    text = render_report(load_all(out))
    page = Page(text)
    for _, attributes in page.elements:
        for key in ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "formaction"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:image/", "#"))
        assert "url(" not in (attributes.get("style") or "")
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_every_image_has_an_alternative_text(page):
    images = page.all("img")
    assert len(images) == 6
    assert all(image["alt"].strip() for image in images)
    assert {image["alt"] for image in images} == {HOSTILE, "Caption."}
    strips = page.all("svg")
    assert len(strips) == 8
    assert {svg["aria-label"] for svg in strips} == {"0.72, interval 0.61 to 0.83; threshold 0.5"}


def test_ids_are_unique_and_links_resolve(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"summary", "f1", "f3", "f4", "f4-claim-4"} <= set(ids)
    targets = [attributes["href"] for attributes in page.all("a")]
    assert len(targets) == 4 + 4 + 1 + 3
    assert {target.removeprefix("#") for target in targets} <= set(ids)
    named = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert set(named) <= set(ids)


def test_images_are_embedded_as_they_were_stored(out, page):
    images = page.all("img")
    assert base64.b64decode(images[0]["src"].split(",")[1]).decode() == SVG
    assert (images[0]["width"], images[0]["height"]) == ("480", "240")  # 360 x 180 points
    assert base64.b64decode(images[2]["src"].split(",")[1]) == (out / "f1" / "picture-sheet.png").read_bytes()
    assert (images[2]["width"], images[2]["height"]) == ("3000", "40")


def test_the_summary_has_every_claim_with_figure_interval_rule_and_verdict(out):
    text = render_report(load_all(out))
    summary = Page(_summary(text)).words
    for n, which in enumerate(VERDICTS):
        assert summary.count(f"Claim {n}.") == 2
        assert f"n = {40 + n}" in summary
        assert f"{which}: 2" in summary
    assert summary.count("0.72 (0.61 to 0.83)") == 8
    assert summary.count("interval lies above 0.5") == 8
    assert "Of 8 claims" in summary
    assert "1 study has no meaning for this model" in summary
    assert "No [SOS]." in summary
    rest = ", ".join(name.upper() for name in STUDIES if name not in ("f1", "f3", "f4"))
    assert f"Not run: {rest}." in summary


def _summary(text):
    start = text.index('<section id="summary"')
    return text[start : text.index("</section>", start) + len("</section>")]


def test_a_verdict_that_is_missing_has_its_reason_and_claims_of_our_own_are_told_apart():
    def one(name, paper, n, low):
        found = claim(
            f"Claim {name}.", paper=paper, quantity="q", found=Interval(0.7, low, 0.8, n), rule=Rule("above", 0.5)
        )
        return Stored(name, "T", "Q?", "P.", "prompts", SETTING, claims=(found,))

    page = render_report(
        [one("f1", "it is so", 40, 0.6), one("f2", "it is so", 4, 0.6), one("x2", "not asked", 40, 0.4)]
    )
    assert "n = 4, and a verdict takes 8 or more." in page
    assert "The interval covers the threshold, 0.5" in page
    assert "Of 2 claims of the paper:" in page
    assert "Of 1 claim of our own:" in page
    assert page.count("our own claim:") == 2  # in the summary, and in its study
    assert "2 tests at the 95% level: by chance alone about 0.1 of them would go wrong." in page
    assert "1 of 1 verdict stands" in page


def test_a_path_in_a_heading_may_break_and_hides_no_column():
    summary = Summary(("policy", "CLIP similarity (/models/a/clip)"), (("full", "1.0"),))
    page = render_report([Stored("f1", "T", "Q?", "P.", "prompts", SETTING, summaries=(summary,))])
    assert "(/<wbr>models/<wbr>a/<wbr>clip)" in page


def test_a_verdict_is_told_by_word_and_symbol(page):
    for symbol, which in zip("✓✗~–", VERDICTS, strict=True):
        assert page.words.count(f"{symbol} {which}") >= 5


def test_a_claim_that_does_not_replicate_shows_its_hypothesis(tmp_path):
    (yes, no, *_) = claims()
    found = finding(claims=(replace(yes, hypothesis=""), replace(no, hypothesis="It is < 1; `study a3` would tell.")))
    save(tmp_path, study("f4"), found, SETTING)
    html = render_report(load_all(tmp_path))
    words = Page(html).words
    assert words.count("what would test it:") == 1
    assert "what would test it: It is < 1; study a3 would tell." in words
    assert "It is &lt; 1; <code>study a3</code> would tell." in html


def test_the_section_says_how_it_was_measured_and_how_to_repeat_it(tmp_path):
    save(tmp_path, study("f4", "pairs"), finding(), SETTING)
    words = Page(render_report(load_all(tmp_path))).words
    assert "pocket, 64 pairs, seeds 7 to 70, ddim, 50 steps, guidance scale 7.5" in words
    assert "460 per image with shared prefixes computed once, against 1,300 in separate runs: 65% saved" in words
    assert "To repeat it: shapefirst study f4 --seed 7" in words
    assert "f4/table.parquet" in words


def test_results_of_different_runs_and_short_ones_are_called_that(tmp_path):
    save(tmp_path, study("f1"), finding(), replace(SETTING, quick=True))
    save(tmp_path, study("f4"), finding(), replace(SETTING, seed=8, count=6, prompts="other"))
    words = Page(render_report(load_all(tmp_path))).words
    assert "Short runs (F1) (--quick)" in words
    assert "Heun" not in words
    assert "F4 is of another run than F1: seed 8 instead of 7." in words


def test_one_run_needs_no_note(page):
    assert "another run" not in page.words
    assert "--quick" not in page.words


def test_the_same_results_make_the_same_page_from_the_folder_alone(out):
    first = write_report(out)
    assert first == out / "report.html"
    text = first.read_text(encoding="utf-8")
    assert write_report(out).read_text(encoding="utf-8") == text
    assert text.index('<section id="f1"') < text.index('<section id="f3"') < text.index('<section id="f4"')


def test_models_stand_side_by_side(tmp_path):
    """Every claim with both verdicts, and whether they go together, by a table written here by hand."""
    answers = {
        "agree": ((0.7, 0.9), (0.6, 0.8)),
        "differ": ((0.7, 0.9), (0.1, 0.3)),
        "open": ((0.7, 0.9), (0.4, 0.8)),
    }
    for n, model in enumerate(("a/one", "two")):
        answered = tuple(
            claim(
                f"They {word}.",
                paper="yes",
                quantity="share",
                found=Interval(0.6, *ends[n], 9),
                rule=Rule("above", 0.5),
            )
            for word, ends in answers.items()
        )
        setting = replace(SETTING, model=model, machine=HOSTILE)
        save(tmp_path / f"of {n}", study("f2"), finding(claims=answered), setting)
    save_inapplicable(tmp_path / "of 1", study("f3"), "No [SOS].", replace(SETTING, model="two"))
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    rows = {row.statement: row.together for row in compared_in(tmp_path)}
    assert rows == {"They agree.": "agree", "They differ.": "differ", "They open.": "open", "": "open"}
    assert "4 claims: they agree in 1, differ in 1, and 2 are open. They differ in F2." in page.words
    assert page.all("script") == []
    links = {one["href"] for one in page.all("a") if "report.html" in one["href"]}
    assert {"of%200/report.html", "of%201/report.html#f3"} <= links
    for link in links:
        file, _, anchor = unquote(link).partition("#")
        of_model = Page((tmp_path / file).read_text(encoding="utf-8"))
        assert not anchor or anchor in {one.get("id") for one in of_model.all("section")}
    assert len(page.all("img")) == 2  # of each model the first chart
    assert write_report(tmp_path).read_text(encoding="utf-8").count("They differ.") == 1


def compared_in(folder):
    return compared(load_models(folder).values())


def test_a_folder_of_models_has_at_least_two_and_none_twice(tmp_path):
    save(tmp_path / "a", study("f4", "pairs"), finding(), SETTING)
    with pytest.raises(ShapefirstError, match=r"no stored findings in '.*'; '.*a' holds some"):
        write_report(tmp_path)
    with pytest.raises(ShapefirstError, match="--model A --model B"):
        render_models({"a": load_all(tmp_path / "a")})
    save(tmp_path / "b", study("f4", "pairs"), finding(), SETTING)
    with pytest.raises(ShapefirstError, match=r"Two folders in '.*' hold findings of pocket"):
        write_report(tmp_path)
    save(tmp_path, study("f4", "pairs"), finding(), SETTING)  # its own come first: the others are no part of it
    assert "measured on pocket" in write_report(tmp_path).read_text(encoding="utf-8")


def test_the_title_names_the_model_or_is_what_one_says(out):
    assert Page(render_report(load_all(out))).words.startswith("How text steers the picture, measured on pocket")
    assert Page(render_report(load_all(out), title=HOSTILE)).all("script") == []


def test_nothing_to_report_is_one_sentence(tmp_path):
    with pytest.raises(ShapefirstError, match="run `shapefirst study all"):
        write_report(tmp_path)
    with pytest.raises(ShapefirstError, match="run a study first"):
        render_report([])


@pytest.mark.parametrize(
    ("found", "estimate", "interval"),
    [
        (Interval(1.0, 1.25, 0.75, 9), "1.00", "1.25 to 0.75"),  # of a file that was changed by hand
        (Interval(0.7234, 0.6123, 0.8345, 9), "0.72", "0.61 to 0.83"),
        (Interval(-0.01234, -0.0344, -0.0041, 9), "−0.012", "−0.034 to −0.004"),
        (Interval(1234.5, 1100.2, 1400.9, 9), "1,234", "1,100 to 1,401"),
        (Interval(-0.0001, -0.2, 0.2, 9), "0.00", "−0.20 to 0.20"),
        (Interval(1.0, 1.0, 1.0, 9), "1.0", "1.0 to 1.0"),
        (Interval(0.0, 0.0, 0.0, 9), "0.0", "0.0 to 0.0"),
        (Interval(0.5, math.nan, 1.0, 9), "0.5", "interval undefined"),
        (Interval(math.nan, 0.0, 1.0, 9), "undefined", "0.0 to 1.0"),
    ],
)
def test_figures_have_the_digits_that_their_interval_supports(found, estimate, interval):
    assert reach(found) == (estimate, interval)


def test_the_strip_puts_the_interval_on_the_right_side_of_the_threshold():
    def drawn(found, rule):
        claim = Claim("It is so.", "", "share", found, rule, "inconclusive")
        return render_report([Stored("f4", "Title", "?", "Yes.", "prompts", SETTING, claims=(claim,))])

    def places(found, rule):
        page = Page(drawn(found, rule))
        (side,), (bar,) = page.all("rect"), [line for line in page.all("line") if line["class"] == "interval"]
        start = float(side["x"])
        return (start, start + float(side["width"])), (float(bar["x1"]), float(bar["x2"]))

    (a, b), (low, high) = places(Interval(0.7, 0.6, 0.8, 9), Rule("above", 0.5))
    assert 0 < a < low < high < b == 320
    (a, b), (low, high) = places(Interval(0.7, 0.6, 0.8, 9), Rule("below", 0.5))
    assert 0 == a < b < low < high < 320
    (a, b), (low, high) = places(Interval(-3.0, -3.0, -3.0, 9), Rule("below", -3.0))
    assert (a, b, low, high) == (0, 160, 160, 160)
    assert "<svg" not in drawn(Interval(0.7, math.nan, 0.8, 9), Rule("above", 0.5))


def test_words_for_figures():
    assert [duration(s) for s in (1.25, 12.5, 104.2, 7200)] == ["1.2 s", "12 s", "1.7 min", "2.0 h"]
    assert [plural(n, "pair") for n in (1, 2, 1600)] == ["1 pair", "2 pairs", "1,600 pairs"]
    assert [number(v) for v in (-0.5, 0.0, math.inf, -math.inf)] == ["−0.5", "0", "∞", "−∞"]
    assert one_of(["a", "b", "a"]) == "a, b"
    assert one_of([7.5, 2.0]) == "7.5, 2"


def test_a_control_makes_no_run_of_its_own(tmp_path, out):
    """C1 has another model beside it, and the page does not take that for another run."""
    stored = load_all(out)
    beside = replace(stored[0], name="c1", setting=replace(stored[0].setting, words="control runs/equal (abc)"))
    assert "another run" not in render_report([*stored[:1], beside])
    assert "another run" in render_report([stored[0], replace(beside, setting=replace(beside.setting, seed=99))])
