"""`shapefirst prompts`: files that the other commands read, and one sentence for bad input."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest
from commands import one_sentence, shapefirst
from PIL import Image

from shapefirst.__main__ import main
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
        (["pocket", "--attributes", "r\x1bd"], "--attributes holds the control character U+001B"),
        (["coco", "latin1.txt"], "not UTF-8"),
        (["coco", "half.json"], "The caption of annotation 1 of 'half.json' is not UTF-8 text: 'a dog \\ud83d'"),
        (["coco", "null.json"], "'null.json': annotation 1 has null"),
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
    for name, caption in {"half": '"a dog \\ud83d"', "null": "null"}.items():
        (tmp_path / f"{name}.json").write_text(f'{{"annotations": [{{"image_id": 1, "caption": {caption}}}]}}')
    before = sorted(tmp_path.iterdir())
    assert sentence in one_sentence(prompts(*arguments))
    assert sorted(tmp_path.iterdir()) == before


#: A file that no command may take for prompts -> what is said of it.
NO_PROMPTS = {
    "half.txt": (b"a cat\n\xed\xa0\xbd\n", "not UTF-8 text"),
    "nul.txt": (b"a cat\na d\0g\n", "Line 2 of .* control character U\\+0000"),
    "utf16.txt": ("a cat\na dog\n".encode("utf-16"), "not UTF-8 text"),
    "latin1.txt": ("ein grüner Hut\n".encode("latin-1"), "not UTF-8 text"),
    "long.txt": (b"a cat\n" + b"a" * 1_000_000, "Line 2 of .* 1,000,000 characters"),
    "list.txt": (b"a cat\n['a dog', 'a bird']\n", "Line 2 of .* is no prompt"),
    "json.txt": (b'{"annotations": [{"image_id": 1, "caption": "a dog"}]}', "JSON is in"),
    "table.txt": (b"image_id,caption\n1,a dog\n", "A table is in"),
}
READERS = {
    "prompts text": ["prompts", "text"],
    "prompts compbench": ["prompts", "compbench", "--complex"],
    "generate": ["generate", "--steps", 2, "--prompts-file"],
    "study": ["study", "f4", "--quick", "--prompts-file"],
    "study pairs": ["study", "f4", "--quick", "--pairs-file"],
    "tune": ["tune", "--prompts"],
    "sweep plan": ["sweep", "plan", "--no-probe", "--prompts"],
    "sweep run": ["sweep", "run", "--prompts"],
}


@pytest.mark.parametrize("command", READERS.values(), ids=READERS)
def test_every_command_that_reads_prompts_refuses_the_same_files(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for name, (content, why) in NO_PROMPTS.items():
        (tmp_path / name).write_bytes(content)
        said = one_sentence(shapefirst(*command, tmp_path / name))
        assert name in said
        assert re.search(f"{why}|is no pair of prompts", said), said
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NO_PROMPTS)


def on(encoding, *arguments, text=None):
    """The command in a process whose streams have this encoding."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "shapefirst", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=environment, input=text, check=False)


ANY_WRITING = "a 😀 and a 👩‍👩‍👧\nסוס על הירח\ne\u0301 und é\nहिन्दी 奶酪\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_prompts_are_utf_8_for_the_next_command_whatever_the_locale_is(tmp_path, encoding):
    (tmp_path / "prompts.txt").write_text(ANY_WRITING, encoding="utf-8")
    first = on(encoding, "prompts", "text", tmp_path / "prompts.txt")
    assert (first.returncode, first.stderr) == (0, b"")
    assert first.stdout.decode() == ANY_WRITING
    assert on(encoding, "prompts", "text", "-", text=first.stdout).stdout == first.stdout


def test_images_of_any_writing_are_made_where_only_ascii_can_be_shown(tmp_path, monkeypatch):
    """In this process, which has the model's libraries already, with streams as Python makes them for that locale."""
    shown = io.BytesIO()
    monkeypatch.setattr("sys.argv", ["shapefirst", "generate", "-", "--steps", "1", "--out", str(tmp_path / "out")])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(ANY_WRITING.encode()), encoding="ascii"))
    for name, stream, errors in (("stdout", shown, "strict"), ("stderr", io.BytesIO(), "backslashreplace")):
        monkeypatch.setattr(f"sys.{name}", io.TextIOWrapper(stream, encoding="ascii", errors=errors))
    with pytest.raises(SystemExit) as stopped:
        main()
    sys.stdout.flush()
    assert not stopped.value.code
    assert rb"\u05e1\u05d5\u05e1" in shown.getvalue()
    prompts = {Image.open(path).text["prompt"] for path in (tmp_path / "out").iterdir()}
    assert prompts == set(ANY_WRITING.splitlines())


def test_nothing_heavy_is_imported():
    code = "\n".join(
        [
            "import sys",
            "from shapefirst.cli.app import app",
            "sys.argv = ['shapefirst', 'prompts', 'pocket', '--pairs', '2']",
            "try: app()\nexcept SystemExit as stop: print('exit code', stop.code or 0)",
            "print('heavy', sorted({'torch', 'numpy', 'PIL', 'transformers'} & sys.modules.keys()))",
        ]
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-2:] == ["exit code 0", "heavy []"], result.stderr
