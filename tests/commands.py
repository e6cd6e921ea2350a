"""The command line as the tests call it."""

from typer.testing import CliRunner

from shapefirst.cli.app import app


def shapefirst(*arguments, text=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)


def one_sentence(result):
    """The sentence of a run that ended as bad input should."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("Error: ")
    return result.stderr
