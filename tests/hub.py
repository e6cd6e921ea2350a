"""The Hugging Face hub as its client sees it, on this machine's loopback: folders served as repositories.

    with serve({"someone/tiny": folder}) as hub:
        hf_hub_download("someone/tiny", "model_index.json", endpoint=hub.url)
        hub.asked                     # [("someone/tiny", "model_index.json")]

What is kept as on the hub: files of weights are redirected to a store of large files, with their sha256 as etag; small
ones come from the hub itself, with their git hash; both honour ranges. A repository may be gated, and hold pull
requests.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".ckpt", ".msgpack", ".onnx", ".model")
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A running hub.

    Attributes:
        url: What HF_ENDPOINT is to be.
        repositories: Id -> its folder.
        gated: Ids of those that ask for an agreement first.
        asked: (repository, file) of each file whose content was sent.
    """

    url: str
    repositories: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def files(self, repository: str) -> set[str]:
        """The files of a repository that were downloaded."""
        return {file for name, file in self.asked if name == repository}


@contextmanager
def serve(repositories: Mapping[str, Path]) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}", dict(repositories))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub: Hub = self.server.hub
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        if path[:2] == ["api", "models"]:
            return self._about("/".join(path[2:4]), hub, as_tree="tree" in path[4:5])
        if path[0] == "store":
            return self._content("/".join(path[1:3]), "/".join(path[3:]), hub)
        if len(path) > 4 and path[2] == "resolve":
            return self._file("/".join(path[:2]), "/".join(path[4:]), hub)
        return self._refuse(404, "EntryNotFound")

    def _about(self, repository: str, hub: Hub, *, as_tree: bool) -> None:
        """`HfApi.model_info` and `list_repo_tree`: the files, and what else is known."""
        if repository not in hub.repositories:
            return self._refuse(401, "RepoNotFound")
        folder = hub.repositories[repository]  # of gated ones, too: it is their files that are kept back
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        if as_tree:
            tree = [
                {"type": "file", "path": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "oid": "0"}
                for file in files
            ]
            return self._send(json.dumps(tree).encode(), {"Content-Type": "application/json"})
        siblings = [{"rfilename": file.relative_to(folder).as_posix(), "size": file.stat().st_size} for file in files]
        about = {"id": repository, "modelId": repository, "sha": REVISION, "private": False, "tags": [], "downloads": 0}
        return self._send(json.dumps({**about, "siblings": siblings}).encode(), {"Content-Type": "application/json"})

    def _file(self, repository: str, name: str, hub: Hub) -> None:
        """A file's place: here for small ones, in the store for large ones."""
        if repository not in hub.repositories:
            return self._refuse(401, "RepoNotFound")
        if repository in hub.gated:
            return self._refuse(403, "GatedRepo")
        file = hub.repositories[repository] / name
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        content = file.read_bytes()
        if not name.endswith(LARGE):
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return self._content(repository, name, hub, {"ETag": f'"{git}"', "X-Repo-Commit": REVISION})
        linked = {"X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        self.send_response(302)
        for key, value in {
            **linked,
            "X-Repo-Commit": REVISION,
            "Location": f"{hub.url.replace('127.0.0.1', 'localhost')}/store/{repository}/{name}",  # another host
            "Content-Length": "0",
        }.items():
            self.send_header(key, value)
        return self.end_headers()

    def _content(self, repository: str, name: str, hub: Hub, headers: Mapping[str, str] | None = None) -> None:
        content = (hub.repositories[repository] / name).read_bytes()
        if self.command == "GET":
            hub.asked.append((repository, name))
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        about = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **(headers or {})}
        if "Range" in self.headers:
            about["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self._send(content[first:], about, 206 if "Range" in self.headers else 200)

    def _send(self, content: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"{}", {"X-Error-Code": code, "Content-Type": "application/json"}, status)
