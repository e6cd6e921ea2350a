"""Two runs do not write to one folder, and one that died hinders none: with real second processes."""

from __future__ import annotations

import errno
import fcntl
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from commands import holding

from shapefirst.errors import ShapefirstError
from shapefirst.files import LOCK, locked
from shapefirst.sweep.store import Store


@pytest.fixture
def no_flock(monkeypatch):
    """A file system without locks."""

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_lock_leaves_nothing_behind(tmp_path):
    with locked(tmp_path / "new" / "folder" / LOCK, "it"):
        assert (tmp_path / "new" / "folder" / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "new" / "folder" / LOCK, "it"):
        (tmp_path / "new" / "result").write_text("kept")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result"]


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("how", [(), ("without flock",)])
def test_the_second_is_told_who_was_first_and_goes_on_once_that_one_has_died(tmp_path, how, request):
    if how:
        request.getfixturevalue("no_flock")
    lock = tmp_path / LOCK
    with holding(lock, *how) as first:
        before = lock.read_bytes(), lock.stat().st_mtime_ns
        says = rf"'it' is in use by process {first.pid} on .* since [-\d]{{10}} [:\d]{{8}}: wait until it has"
        with pytest.raises(ShapefirstError, match=says), locked(lock, "it"):
            raise AssertionError
        assert (lock.read_bytes(), lock.stat().st_mtime_ns) == before
    assert lock.exists()  # the first was killed, and could not tidy
    with locked(lock, "it"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_process_of_another_host_cannot_be_looked_up_and_the_sentence_says_what_to_do(tmp_path, no_flock):
    lock = tmp_path / LOCK
    lock.write_text("1\nelsewhere\n")
    says = rf"process 1 on elsewhere since .*; if it has died there, delete {re.escape(repr(str(lock)))}"
    with pytest.raises(ShapefirstError, match=says), locked(lock, "it"):
        raise AssertionError


def test_a_file_that_anybody_left_there_does_not_hinder(tmp_path):
    for content in (b"", b"1\nelsewhere\n", b"99999999\nno process\n", b"\xff\xfe\0" * 100):
        (tmp_path / LOCK).write_bytes(content)
        with locked(tmp_path / LOCK, "it"):
            assert (tmp_path / LOCK).read_text().split()[1] == socket.gethostname()


def test_a_place_that_takes_no_lock_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ShapefirstError, match="Cannot lock 'it': "), locked(tmp_path / "file" / LOCK, "it"):
        raise AssertionError


CROWD = """
import sys, time
from pathlib import Path
from shapefirst.errors import ShapefirstError
from shapefirst.files import locked
folder, had, until = Path(sys.argv[1]), 0, time.monotonic() + 3
while time.monotonic() < until:
    try:
        with locked(folder / ".lock", "it"):
            (folder / "inside").touch(exist_ok=False)
            had += 1
            (folder / "inside").unlink()
    except ShapefirstError:
        pass
print(had)
"""


def test_of_a_crowd_only_one_is_inside_though_the_file_comes_and_goes(tmp_path):
    command = [sys.executable, "-c", CROWD, str(tmp_path)]
    crowd = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate() for process in crowd]
    assert [errors for _, errors in said] == [""] * 3
    assert sum(int(had) for had, _ in said) > 30
    assert list(tmp_path.iterdir()) == []


def test_behind_a_url_runs_of_this_machine_keep_each_other_out():
    store = Store("memory://locked/sweep")
    with store.locked():
        with pytest.raises(ShapefirstError, match="'memory://locked/sweep/' is in use"):
            Store("memory://locked/sweep/").locked().__enter__()
        with Store("memory://locked/other").locked():
            pass
        assert not store.done()
        with suppress(FileNotFoundError):
            assert store._fs.ls("/locked") == []
    with store.locked():
        pass


@pytest.mark.parametrize(
    "url", ["sftp://host/sweep", "ftp://host/x", "zip://sweep.zip", "simplecache::s3://a/b", "nosuch://x"]
)
def test_a_place_that_shows_half_files_is_refused_and_what_works_is_named(url):
    with pytest.raises(ShapefirstError, match=rf"Cannot use '{url}' .* a folder, or .* s3://, .* gs://, .* az://"):
        Store(url)


def test_who_waits_gets_the_lock_also_where_its_folder_went_with_it(tmp_path):
    """Of a run that found nothing to do, the folder goes with the lock."""
    for n in range(5):
        file, held = tmp_path / str(n) / "new" / LOCK, threading.Event()

        def hold(file=file, held=held):
            with locked(file, "it"):
                held.set()
                time.sleep(0.2)

        first = threading.Thread(target=hold)
        first.start()
        held.wait()
        with locked(file, "it"):
            assert file.exists()
        first.join()
        assert not file.exists()
