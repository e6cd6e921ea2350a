"""The commands: words and wiring only. Whatever is heavy is imported inside the command that needs it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shapefirst import __version__
from shapefirst.cli import check, generate, prompts, show, studio, study, sweep, terminal, tracing, train, tune
from shapefirst.errors import INTERRUPTED, ShapefirstError, sentence_of, shortened

__all__ = ["app"]

BAD_INPUT = 2
#: What `signatures.guarded` says: those who type commands know no functions.
_ARGUMENT = re.compile(r"^(\w+)= of [\w.]+\(\) must be (.*?), not ", re.DOTALL)
LONGEST = 500  # characters of a sentence of Typer's, which has no quotes around what was typed


class _Commands(TyperGroup):
    """Bad input ends a command with one sentence, an interruption with one word; neither with a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        terminal.spare_no_character()
        options = args[: args.index("--")] if "--" in args else args  # behind it are prompts
        terminal.say_tables_as_json("--json" in options)
        args = [word for word in options if word != "--json"] + args[len(options) :]
        if not args:  # the help is shown by way of an exception
            return super().parse_args(ctx, args)
        with _one_sentence():
            for option, value in (*pairwise(args), *(word.split("=", 1) for word in args if word.endswith("="))):
                if not value and option in _places(self):  # as "$OUT" is where there is no OUT
                    raise ShapefirstError(f"{option} is given an empty value: name a folder or file, or leave it out.")
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _one_sentence(), terminal.warnings_as_lines():
            result = super().invoke(ctx)
            if sys.stdout is not None:  # closed from the start
                sys.stdout.flush()
            return result


def _places(group: TyperGroup) -> set[str]:
    """The options of a group's commands, and of the groups in it, that take a file or folder."""
    found: set[str] = set()
    for command in group.commands.values():
        found |= _places(command) if isinstance(command, TyperGroup) else set()
        takers = (one for one in command.params if str(getattr(one, "metavar", "")).startswith(("DIR", "FILE", "PATH")))
        found |= {name for one in takers for name in one.opts}
    return found


@contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        raise
    except OSError as problem:
        where = f" {problem.filename!r}" if problem.filename else ""
        terminal.error(sentence_of(f"Cannot read or write{where}: {problem.strerror or problem}."))
        raise typer.Exit(BAD_INPUT) from problem
    except UnicodeEncodeError as problem:  # names of files and folders may hold what is no UTF-8
        near = problem.object[max(0, problem.start - 30) : problem.end]
        terminal.error(f"Cannot write {near!a} in {problem.encoding}: give names in UTF-8, on a system that has it.")
        raise typer.Exit(BAD_INPUT) from problem
    except (ShapefirstError, typer.TyperException) as problem:
        said = _sentence(problem) if isinstance(problem, typer.TyperException) else _ARGUMENT.sub(_option, str(problem))
        if said:
            terminal.error(said)
        raise typer.Exit(BAD_INPUT) from problem
    except KeyboardInterrupt as stop:
        terminal.error("interrupted.")
        raise typer.Exit(INTERRUPTED) from stop


def _option(found: re.Match[str]) -> str:
    return f"{found[1].replace('_', ' ')} must be {found[2].removesuffix(' or None')}, not "


def _sentence(problem: typer.TyperException) -> str:
    """Typer's words, and the value that it leaves out where a number or a choice was expected; none where it has shown
    a command's help instead."""
    said = problem.format_message().rstrip(".")
    if not said:
        return ""
    errors = getattr(problem.__cause__, "errors", None)  # pydantic's
    given = f", not {errors()[0]['input']!r}" if callable(errors) and "is not one of" not in said else ""
    end = "" if said.endswith("?") and not given else "."
    return shortened(sentence_of(f"{said.replace('Value error, ', '')}{given}{end}"), LONGEST)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate.generate_images)
app.command("demo")(show.demo)
app.command("studio")(studio.studio)
app.command("models")(show.list_models)
app.command("check")(check.check)
app.command("trace")(tracing.trace_words)
app.command("study")(study.study)
app.command("report")(study.report)
app.command("tune")(tune.tune)
app.add_typer(sweep.app, name="sweep")
app.add_typer(prompts.app, name="prompts")
app.command("train-pocket")(train.train_pocket)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shapefirst {__version__}")
        raise typer.Exit


@app.callback()
def shapefirst(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print tables as JSON, one a line, and nothing else on stdout. Goes anywhere."),
    ] = False,
) -> None:
    """See how text steers a diffusion model, then stop paying for it where it no longer does.

    \b
    Examples:
      shapefirst demo
      shapefirst generate "a wooden house" --budget 0.75 --compare
      shapefirst generate --prompts-file prompts.txt --model sd15
      shapefirst models pocket
      shapefirst check FluxPipeline
      shapefirst models --json

    \b
    Exit codes:
      0    done
      1    shards of a sweep failed; the same command tries them again
      2    bad input, or a model that is not to be had: one sentence says what to do
      130  interrupted; what was finished is kept
    """
