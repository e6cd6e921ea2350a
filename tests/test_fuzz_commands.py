"""Whatever the words are, a command works, or says in one sentence why not; sampling itself is left out."""

import re
from pathlib import Path
from random import Random

import pytest
import typer
from commands import shapefirst
from fuzz.commands import command_line, commands, put_files

CALLS = 24


@pytest.fixture
def no_work(monkeypatch):
    """Every command ends well where its work would begin."""

    def begin(*_, **__):
        raise typer.Exit(0)

    for place in (
        "shapefirst.models.load",
        "shapefirst.sweep.work.Scored.loaded",
        "shapefirst.sweep.run.run_here",
        "shapefirst.training.stages.exit_code",
    ):
        monkeypatch.setattr(place, begin)


def lying():
    return sorted((str(path), path.is_symlink() or path.is_dir() or path.lstat().st_size) for path in Path().rglob("*"))


def test_every_command_is_among_the_odd_ones():
    random = Random(0)
    lines = [command_line(random) for _ in range(500)]
    assert {words for words in commands() if any(tuple(line[: len(words)]) == words for line in lines)} == {*commands()}
    assert ("generate",) in commands()
    assert ("sweep", "latency") in commands()


@pytest.mark.parametrize("part", range(3))
def test_odd_command_lines_work_or_are_refused_in_one_sentence(part, tmp_path, monkeypatch, no_work):
    for number in range(part, CALLS, 3):
        random = Random(number)
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        put_files(random)
        before, line = lying(), command_line(random, without=("--ray",))
        result = shapefirst(*line, text=random.choice(("", "a red car\n", "\x1b[31m\n")))
        where = f"seed {number}: {ascii(line)[:500]}\n{result.output[-1500:]}"
        assert result.exception is None or isinstance(result.exception, SystemExit), where
        assert result.exit_code in (0, 2), where
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", result.output), where
        if result.exit_code == 2:
            said = re.findall(r"^Error: .*", result.stderr, re.MULTILINE)
            assert len(said) == 1 or "Usage" in result.stdout, where
            assert all(len(one) < 1000 for one in said), where
            assert lying() == before, where
