"""`shapefirst studio`: a page to try things in. Words and wiring only."""

from __future__ import annotations

from typing import Annotated

import typer

from shapefirst.cli import terminal
from shapefirst.cli.loading import obtained, quiet_libraries
from shapefirst.cli.options import Device, Dtype
from shapefirst.errors import imported

__all__ = ["studio"]


def studio(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A model to choose beside pocket, as of `generate`; may be given again. No other is to be had there.",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A policy that `tune` wrote, to choose there; may be given again."),
    ] = None,
    report: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Where `study` or `sweep report` wrote a page, to open from there; again."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    port: Annotated[int, typer.Option(metavar="N", help="Where it listens; 0 for any that is free.")] = 7860,
    listen: Annotated[
        bool,
        typer.Option("--listen", help="Let other machines in, too: whoever reaches this one. There is no password."),
    ] = False,
) -> None:
    """Open the studio: a page on this machine where the full and the saved picture stand side by side.

    Click on the steps of the schedule, look into each step of a run, and copy what you have found as a link, as a
    command line or as Python. pocket is there at once, without a download.

    \b
    Examples:
      shapefirst studio
      shapefirst studio --model sd15 --policy policy.json --report out/sweep
    """
    for module in ("gradio", "uvicorn", "fastapi"):
        imported(module, "The studio runs", "studio")
    with terminal.working("Getting torch, diffusers and Gradio ready"):
        from shapefirst.studio.offer import make_offer
        from shapefirst.studio.serving import StudioServer

        quiet_libraries()
    for name in model or ():
        obtained(name, dtype, device)
    offer = make_offer(model or (), policy or (), report or (), device, dtype)
    server = StudioServer(offer, port, listen=listen)
    if listen:
        terminal.warning(
            "the studio is open to every machine that reaches this one, without a password: whoever opens it can make "
            "pictures here and see the names of its models, policies and reports."
        )
    terminal.line(f"Studio: {server.address}")
    server.run()
