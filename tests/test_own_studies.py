"""Studies that are not ours: found by file and by entry point, refused in a sentence, and stored beside ours."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from shapefirst.errors import ShapefirstError
from shapefirst.studies import own

GOOD = """
from shapefirst.findings.finding import Finding, Study, claim
from shapefirst.measure.intervals import Rule, bootstrap

def run(subject, prompts):
    values = [float(len(prompt.text)) for prompt in prompts]
    found, rule = bootstrap(values), Rule("above", 3)
    long = claim("Prompts are long.", paper="not asked", quantity="letters", found=found, rule=rule)
    return Finding(claims=(long,), table={**subject.about(prompts), "letters": values})

STUDY = Study(name="NAME", title="Length", question="How long?", paper="", needs="prompts", count=8, run=run)
"""


def test_a_file_s_study_is_found(tmp_path):
    file = tmp_path / "half.py"
    file.write_text(GOOD.replace("NAME", "h1"))
    assert own.study_in(file).title == "Length"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("STUDY = 3", "has no STUDY"),
        ("1 / 0", "cannot be run: ZeroDivisionError: division by zero"),
        ("import nowhere_to_be_found", "cannot be run: ModuleNotFoundError"),
        (GOOD.replace("NAME", "f4"), "is named 'f4': take a name of small letters"),
        (GOOD.replace("NAME", "../up"), r"is named '\.\./up'"),
    ],
)
def test_a_file_without_a_study_is_refused(tmp_path, text, message):
    file = tmp_path / "half.py"
    file.write_text(text)
    with pytest.raises(ShapefirstError, match=message):
        own.study_in(file)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ShapefirstError, match=r"There is no file .*half\.py"):
        own.study_in(tmp_path / "half.py")
    file = tmp_path / "half.txt"
    file.write_text(GOOD)
    with pytest.raises(ShapefirstError, match=r"whose name ends in \.py"):
        own.study_in(file)


def test_a_package_advertises_its_studies(tmp_path, monkeypatch):
    (tmp_path / "package_of_mine.py").write_text(GOOD.replace("NAME", "h1"))
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint(name, "package_of_mine:STUDY", own.GROUP) for name in ("h1", "h2", "f4")]
    points.append(EntryPoint("h3", "package_of_mine:nothing", own.GROUP))
    monkeypatch.setattr(own, "entry_points", lambda group: points if group == own.GROUP else [])
    found = own.advertised()
    assert list(found) == ["h1", "h2", "h3"]
    assert own.study_of(found["h1"]).name == "h1"
    with pytest.raises(ShapefirstError, match="'h1': name both alike"):
        own.study_of(found["h2"])
    with pytest.raises(ShapefirstError, match="cannot be imported: AttributeError"):
        own.study_of(found["h3"])
