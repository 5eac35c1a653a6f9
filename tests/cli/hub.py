"""A Hugging Face hub on this machine: an HTTP server with the paths and headers that huggingface_hub asks for."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """Serves the folders of models, each with the branch `main` of one commit.

    models: folder by name; gated: names that need a token; asked: method and path of each request.
    """

    def __init__(self, models: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.models, self.gated = models, set[str]()
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def files(self) -> set[str]:
        """Names of the files that were fetched."""
        return {
            line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/resolve/" in line
        }

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Environment of a process that knows this hub only, and whose cache is in `home`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return kept | {"HF_ENDPOINT": self.url, "HF_HOME": str(home)} | more


@contextmanager
def serving(models: dict[str, Path]) -> Iterator[Hub]:
    with Hub(models) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.server.asked.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/").removeprefix("api/models/")
        owner, name, *rest = path.split("/")
        model = f"{owner}/{name}"
        folder = self.server.models.get(model)
        match rest:
            case _ if folder is None:
                self._fail(401, "RepoNotFound")
            case ["resolve", *_] if model in self.server.gated and "Authorization" not in self.headers:
                self._fail(401, "GatedRepo")
            case ["resolve" | "revision" | "tree", revision, *_] if revision not in ("main", COMMIT):
                self._fail(404, "RevisionNotFound")
            case ["resolve", _, file] if not (folder / file).is_file():
                self._fail(404, "EntryNotFound")
            case ["resolve", _, file]:
                content = (folder / file).read_bytes()
                self._send(content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": COMMIT})
            case ["tree", *_]:
                self._send(json.dumps([_entry(file) for file in sorted(folder.iterdir())]).encode())
            case _:
                files = [{"rfilename": file.name} for file in folder.iterdir()]
                about = {"id": model, "sha": COMMIT, "siblings": files, "private": False}
                self._send(json.dumps(about).encode())

    def _send(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _fail(self, status: int, code: str) -> None:
        self._send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status)


def _entry(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"type": "file", "path": file.name, "size": len(content), "oid": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
