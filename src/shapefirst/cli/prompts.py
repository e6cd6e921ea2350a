"""``shapefirst prompts``: prompt files for studies and sweeps. Words and wiring only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from shapefirst.checks import check_number, check_text
from shapefirst.cli import terminal
from shapefirst.errors import ShapefirstError
from shapefirst.prompts.prompt import Prompt

__all__ = ["app"]

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="rich",
)

Count: TypeAlias = Annotated[int | None, typer.Option(metavar="N", help="At most so many prompts.", show_default="all")]
Pairs: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Instead, at most N pairs that share neither noun nor attribute, a tab between the two."
    ),
]
Seed: TypeAlias = Annotated[int, typer.Option(help="Seed of what is drawn.")]
Out: TypeAlias = Annotated[Path | None, typer.Option(metavar="FILE", help="Where they go.", show_default="stdout")]
Files: TypeAlias = Annotated[list[Path] | None, typer.Option(metavar="FILE", help="May be given again.")]


@app.callback()
def prompts(context: typer.Context) -> None:
    """Write prompts, one a line, or pairs of prompts that share neither noun nor attribute."""
    if context.invoked_subcommand is None:
        raise ShapefirstError("Say which prompts: pocket, compbench, coco or text (`shapefirst prompts --help`).")


@app.command()
def pocket(
    attributes: Annotated[
        str | None, typer.Option(metavar="WORDS", help="With commas between.", show_default="pocket's 18")
    ] = None,
    nouns: Annotated[
        str | None, typer.Option(metavar="WORDS", help="With commas between.", show_default="pocket's 40")
    ] = None,
    count: Count = None,
    pairs: Pairs = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Every attribute with every noun, "a red car", from pocket's vocabulary or your own words.

    \b
    Examples:
      shapefirst prompts pocket --count 64 --out prompts.txt
      shapefirst prompts pocket --attributes red,glass --nouns car,cat,key
    """
    from shapefirst.prompts import every_phrase, sample
    from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS

    _check(count, pairs)
    for option, words in {"--attributes": attributes, "--nouns": nouns}.items():
        check_text(words or "", option)
    everything = every_phrase(
        ATTRIBUTES if attributes is None else attributes.split(","), NOUNS if nouns is None else nouns.split(",")
    )
    _write(sample(everything, count, seed), pairs, seed, out)


@app.command("compbench")
def compbench_prompts(
    colour: Files = None,
    texture: Files = None,
    complex: Files = None,
    combine: Annotated[
        bool, typer.Option("--combine", help="Fill up with new combinations of the files' own words.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(metavar="N", help="At most so many of each.", show_default="the paper's 800, 800 and 1,000"),
    ] = None,
    pairs: Pairs = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """The paper's PromptSet, from prompt files of T2I-CompBench.

    \b
    Example:
      shapefirst prompts compbench --colour color_train.txt --texture texture_train.txt --complex complex_train.txt
    """
    from shapefirst.prompts import PAPER_SIZES
    from shapefirst.prompts import compbench as read

    _check(count, pairs)
    sizes = PAPER_SIZES if count is None else dict.fromkeys(PAPER_SIZES, count)
    prompts = read(colour or (), texture or (), complex or (), sizes=sizes, seed=seed, combine=combine)
    for source, files in {"colour": colour, "texture": texture, "complex": complex}.items():
        found = sum(prompt.source == source for prompt in prompts)
        if files and found < sizes[source]:
            terminal.note(f"the {source} files hold {found} different prompts, fewer than {sizes[source]}.")
    _write(prompts, pairs, seed, out)


@app.command()
def coco(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="MS-COCO's JSON or Karpathy's, JSON Lines, or a table (CSV, TSV).")
    ],
    count: Annotated[int, typer.Option(metavar="N", help="At most so many; one a photograph.")] = 30_000,
    pairs: Pairs = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Captions, from the JSON of MS-COCO, or what has a column `prompt`, `caption` or `text`; blank ones are skipped.

    \b
    Example:
      shapefirst prompts coco captions_val2014.json --out coco30k.txt
    """
    from shapefirst.prompts import read_captions

    _check(count, pairs)
    _write(read_captions(file, count, seed), pairs, seed, out)


@app.command()
def text(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One prompt a line; '-' reads stdin.")],
    count: Count = None,
    pairs: Pairs = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Prompts of your own: a draw of them, or pairs.

    \b
    Example:
      shapefirst prompts text mine.txt --pairs 32 --out pairs.tsv
    """
    from shapefirst.prompts import parse_prompts, read_prompts, sample

    _check(count, pairs)
    _write(parse_prompts(sample(read_prompts(file), count, seed)), pairs, seed, out)


def _check(count: int | None, pairs: int | None) -> None:
    if count is not None:
        check_number(count, "prompts", "--count")
    if pairs is not None:
        check_number(pairs, "pairs", "--pairs")


def _write(prompts: Sequence[Prompt], pairs: int | None, seed: int, out: Path | None) -> None:
    from shapefirst.files import check_file, save_text
    from shapefirst.prompts import as_lines, make_pairs

    if out is not None:
        check_file(out)
    items = prompts if pairs is None else make_pairs(prompts, pairs, seed)
    if out is None:
        # As the next command reads them, whatever the locale writes.
        typer.echo(as_lines(items).encode(), nl=False)
        return
    save_text(as_lines(items), out)
    what = "prompt" if pairs is None else "pair"
    terminal.line(f"{len(items)} {what}{'s' * (len(items) != 1)}: {out}")
