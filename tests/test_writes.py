"""Files are whole or not there, and no image takes the name of another."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shapefirst.errors import DeviceError, ShapefirstError
from shapefirst.files import Names, atomic, check_file, check_writable, cleared, save_png, save_text, slug
from shapefirst.models.machine import find_device


def test_a_finished_file_takes_its_place(tmp_path):
    with atomic(tmp_path / "new" / "a.txt") as part:
        part.write_text("whole")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_half_written_file_vanishes_and_the_old_one_stays(tmp_path, stop):
    (tmp_path / "a.txt").write_text("old")

    def write_half():
        with atomic(tmp_path / "a.txt") as part:
            part.write_text("ha")
            raise stop

    with pytest.raises(stop):
        write_half()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_place_that_is_no_folder_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ShapefirstError, match="is not a folder"):
            check_writable(place)
        with pytest.raises(ShapefirstError, match="Cannot write"), atomic(place / "a.png"):
            pass


def test_what_is_no_file_stays_in_its_place(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # as a device would be
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "to the pipe").symlink_to("pipe")
    before = sorted(tmp_path.iterdir())
    for name in ("pipe", "loop", "to the pipe"):
        with pytest.raises(ShapefirstError, match="a pipe or a link to itself"):
            check_file(tmp_path / name)
        with pytest.raises(ShapefirstError, match="Cannot write"):
            save_text("new", tmp_path / name)
    with pytest.raises(ShapefirstError, match="Cannot write to"):
        check_writable(tmp_path / "loop" / "below")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "pipe").is_fifo()


def test_what_killed_writers_of_a_file_have_left_is_taken_away_and_nothing_else(tmp_path):
    mine, others = ".report-169fe082.part", (".report-2-169fe082.part", ".table-169fe082.part", ".report-x.part")
    for name in (mine, *others, "report.html"):
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to("report.html")
    assert cleared(tmp_path / "link") == tmp_path / "link"
    assert {path.name for path in tmp_path.iterdir()} == {*others, "report.html", "link"}
    assert cleared(tmp_path / "nowhere" / "report.html").name == "report.html"


def test_a_link_goes_on_to_lead_to_what_was_written(tmp_path):
    (tmp_path / "link").symlink_to("file")
    save_text("new", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_url_is_no_folder():
    with pytest.raises(ShapefirstError, match="'hf:/a/b': a URL"):
        check_writable(Path("hf://a/b"))


@pytest.mark.parametrize(
    "name", ["meta", "hpu", "mkldnn", "privateuseone", "cuda:99", "cpu:5", "xla", "", "x", "cpu:" + "9" * 5000]
)
def test_a_device_that_cannot_compute_is_not_there(name):
    with pytest.raises(DeviceError, match="There is no device"):
        find_device(name)


def test_checking_a_folder_does_not_make_it(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ShapefirstError, match="no permission"):
        check_writable(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("place", ["/proc", "/proc/new", "/sys/new"])
def test_a_place_that_root_may_write_to_and_that_takes_no_file_is_refused(place):
    with pytest.raises(ShapefirstError, match=f"Cannot write to '{place}'"):
        check_writable(Path(place))
    with pytest.raises(ShapefirstError, match="Cannot write to"):
        check_file(Path(place, "policy.json"))


def test_a_png_remembers_its_settings_in_any_script(tmp_path):
    save_png(Image.new("RGB", (2, 2)), tmp_path / "a.png", {"prompt": "ein Käse, 奶酪", "seed": 3})
    assert Image.open(tmp_path / "a.png").text == {"prompt": "ein Käse, 奶酪", "seed": "3"}


def test_slugs_are_readable():
    assert slug("A Red/Blue  car, please!") == "a-red-blue-car-please"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("?!") == "prompt"
    assert slug("一只猫") == "一只猫"
    assert slug("it's O’Neil's t-shirt, long_hair") == "it-s-o-neil-s-t-shirt-long-hair"
    assert slug("हिन्दी शब्द, cafe\u0301") == "हिन्दी-शब्द-caf\u00e9"


def test_a_slug_has_no_letter_that_the_disk_has_not(monkeypatch):
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    assert slug("a red car, 奶酪") == "a-red-car"
    assert slug("סוס") == "prompt"


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_a_slug_of_anything_is_a_safe_file_name(text):
    name = slug(text)
    assert name
    assert len(name.encode()) <= 80
    assert not set(name) & set('/\\:*?"<>|.\0\n ')


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "A", "a-2", "b"])))
def test_names_never_repeat_within_a_run(stems):
    names = Names()
    given_out = [names.unique(stem).casefold() for stem in stems]
    assert len(set(given_out)) == len(stems)


def test_a_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").write_text("")
    with atomic(tmp_path / "mine") as part:
        part.write_text("")
    assert (tmp_path / "mine").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine", "other"]
