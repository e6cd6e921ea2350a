"""`shapefirst prompts`: files that the other commands read, and one sentence for bad input."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands import one_sentence, shapefirst

from shapefirst.prompts import read_pairs, read_prompts


def prompts(*arguments, text=None):
    return shapefirst("prompts", *arguments, text=text)


def test_prompts_go_to_stdout_for_the_next_command():
    result = prompts("pocket", "--attributes", "red, glass", "--nouns", "car,cat")
    assert result.exit_code == 0, result.output
    assert result.stdout == "a red car\na glass car\na red cat\na glass cat\n"
    assert result.stdout == prompts("text", "-", text=result.stdout).stdout


def test_prompts_go_to_a_file_that_is_whole(tmp_path):
    out = tmp_path / "new" / "prompts.txt"
    result = prompts("pocket", "--count", 12, "--seed", 3, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"12 prompts: {out}\n"
    assert len(read_prompts(out)) == 12
    assert list(out.parent.iterdir()) == [out]


def test_pairs_are_written_for_the_studies(tmp_path):
    result = prompts("pocket", "--pairs", 5, "--out", tmp_path / "pairs.tsv")
    assert result.exit_code == 0, result.output
    assert len(read_pairs(tmp_path / "pairs.tsv")) == 5
    assert prompts("pocket", "--pairs", 5).stdout == (tmp_path / "pairs.tsv").read_text()
    assert prompts("pocket", "--pairs", 5, "--seed", 1).stdout != (tmp_path / "pairs.tsv").read_text()


def test_promptset_says_how_many_it_found(tmp_path):
    colour, complex = tmp_path / "colour.txt", tmp_path / "complex.txt"
    colour.write_text("a green bench and a red car\n")
    complex.write_text("The cat slept.\n")
    result = prompts("compbench", "--colour", colour, "--complex", complex)
    assert result.exit_code == 0, result.output
    assert result.stdout == "a green bench\na red car\nThe cat slept.\n"
    assert "colour files hold 2 different prompts, fewer than 800" in result.stderr
    assert "complex files hold 1" in result.stderr
    assert prompts("compbench", "--colour", colour, "--complex", complex, "--count", 1).stderr == ""


def test_captions_are_drawn(tmp_path):
    file = tmp_path / "captions.csv"
    file.write_text("image_id,prompt\n1,A dog.\n2,A cat.\n")
    assert prompts("coco", file).stdout == "A dog.\nA cat.\n"
    assert prompts("coco", file, "--count", 1).stdout in ("A dog.\n", "A cat.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "pocket, compbench, coco or text"),
        (["poetry"], "poetry"),
        (["coco", "absent.csv"], "No such file"),
        (["pocket", "--nouns", "r\udce9d"], "--nouns is not UTF-8"),
        (["coco", "latin1.txt"], "not UTF-8"),
        (["coco", "empty.txt"], "no caption"),
        (["text", "empty.txt"], "no prompt"),
        (["text", "latin1.txt"], "not UTF-8"),
        (["text", "one.txt", "--pairs", "4"], "at least two different prompts"),
        (["text", "one.txt", "--count", "0"], "--count must be at least 1"),
        (["text", "one.txt", "--out", "one.txt/prompts.txt"], "Cannot write"),
        (["pocket", "--nouns", ""], "list of nouns"),
        (["pocket", "--pairs", "0"], "at least 1"),
        (["compbench"], "at least one of"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "one.txt").write_text("a red car\n")
    (tmp_path / "latin1.txt").write_bytes("ein grüner Hut\n".encode("latin-1"))
    before = sorted(tmp_path.iterdir())
    assert sentence in one_sentence(prompts(*arguments))
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_heavy_is_imported():
    code = "\n".join(
        [
            "import sys",
            "from shapefirst.cli import app",
            "sys.argv = ['shapefirst', 'prompts', 'pocket', '--pairs', '2']",
            "try: app()\nexcept SystemExit as stop: print('exit code', stop.code or 0)",
            "print('heavy', sorted({'torch', 'numpy', 'PIL', 'transformers'} & sys.modules.keys()))",
        ]
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-2:] == ["exit code 0", "heavy []"], result.stderr
