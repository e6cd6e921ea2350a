"""The server of the studio: what a visitor may ask it for, and where it listens.

Gradio's own server also takes uploads, hands out files of its cache, fetches addresses of the internet and shows an
API. The page needs none of that, so whatever is not on the list below is not there.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

import gradio as gr
import uvicorn
from fastapi import FastAPI, Response

from shapefirst.drawing.pages import fill
from shapefirst.errors import ShapefirstError
from shapefirst.studio.making import Studio
from shapefirst.studio.offer import Offer
from shapefirst.studio.page import StudioPage
from shapefirst.studio.shelf import Shelf
from shapefirst.studio.turns import Turns

__all__ = ["StudioServer", "studio_app"]

Scope: TypeAlias = MutableMapping[str, Any]
Asgi: TypeAlias = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

#: What the page asks for, as (method, path).
_ALLOWED: Final = re.compile(
    r"(GET|HEAD) /|GET /(config/?|theme\.css|manifest\.json|favicon\.ico|robots\.txt)|GET /(assets|static)/[\w./-]+"
    r"|POST /gradio_api/(queue/join|cancel|reset)/?|GET /gradio_api/(queue/data|startup-events)/?"
    r"|GET /gradio_api/heartbeat/\w+|GET /(pictures|reports)/.*"
)
#: Nothing from elsewhere, whatever Gradio comes to ask for. It writes its page by scripts that it makes up.
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_REPORT_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_FONTS: Final = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


def studio_app(offer: Offer, turns: Turns, *, hosts: tuple[str, ...] | None = LOOPBACK) -> Asgi:
    """The studio as an application of ASGI.

    Args:
        offer: What it offers.
        turns: Its queue.
        hosts: The names that it may be asked under, so that a page of elsewhere cannot make its own name lead here;
            None for any.
    """
    shelf = Shelf()
    page = StudioPage(Studio(offer), turns, shelf)
    page.blocks.queue(default_concurrency_limit=None, api_open=False, max_size=256)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/pictures/{key}/{name}")
    def picture(key: str, name: str) -> Response:
        png = shelf.picture(key)
        headers = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
        return Response(status_code=404) if png is None else Response(png, media_type="image/png", headers=headers)

    @app.get("/reports/{number}")
    def report(number: int) -> Response:
        with suppress(IndexError, OSError):
            html = offer.report([*offer.reports][number])
            return Response(html, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})
        return Response("This report is no longer there.", status_code=404, media_type="text/plain")

    gr.mount_gradio_app(
        app,
        page.blocks,
        "/",
        theme=gr.themes.Default(**_FONTS),
        css=fill("studio/look.css"),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
    )
    return _walled(app, hosts)


def _walled(app: Asgi, hosts: tuple[str, ...] | None) -> Asgi:
    """The application behind the list of what may be asked for."""

    async def walled(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
        named = re.sub(r":\d+$", "", headers.get(b"host", "")).strip("[]")
        asked = f"{scope.get('method')} {scope['path']}"
        if scope["type"] != "http" or ".." in asked or not _ALLOWED.fullmatch(asked):
            await Response("There is no such page.", 404, media_type="text/plain")(scope, receive, send)
        elif hosts is not None and named not in hosts:
            await Response("The studio answers to localhost alone.", 421, media_type="text/plain")(scope, receive, send)
        else:
            await app(scope, receive, _with_policy(send))

    return walled


def _with_policy(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [(name, value) for name, value in message.get("headers", ())]
            if not any(name.lower() == b"content-security-policy" for name, _ in headers):
                headers.append((b"content-security-policy", _POLICY.encode()))
            message = {**message, "headers": [*headers, (b"referrer-policy", b"no-referrer")]}
        await send(message)

    return sending


class _Server(uvicorn.Server):
    """Ends in silence: pages that are open wait for news, and to be cut off is no error of theirs."""

    async def shutdown(self, sockets: Any = None) -> None:
        logging.getLogger("uvicorn.error").disabled = True
        await super().shutdown(sockets)


class StudioServer:
    """The studio on a port of this machine.

    Args:
        offer: What it offers.
        port: 0 for any that is free.
        listen: On all addresses, and not on the loopback alone.

    Attributes:
        address: Of the page.

    Raises:
        ShapefirstError: The port is taken, or not for this user.
    """

    def __init__(self, offer: Offer, port: int, *, listen: bool = False) -> None:
        host = "0.0.0.0" if listen else LOOPBACK[0]
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise ShapefirstError(
                f"The port {port} cannot be listened on ({getattr(error, 'strerror', error)}): choose another --port."
            ) from error
        self.address = f"http://{LOOPBACK[0]}:{self._socket.getsockname()[1]}/"
        self._turns = Turns()
        app = studio_app(offer, self._turns, hosts=None if listen else LOOPBACK)
        self._server = _Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))

    def run(self) -> None:
        """Serve until it is interrupted or stopped."""
        with suppress(KeyboardInterrupt):
            self._server.run([self._socket])
        self._turns.close()

    def close(self) -> None:
        """Let go of the port without having served."""
        self._socket.close()
        self._turns.close()

    def stop(self) -> None:
        """End `run`, which may be in another thread."""
        self._server.should_exit = True
