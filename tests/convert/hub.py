"""A hub on the loopback interface: the part of its protocol that a download needs, and what can go wrong in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/model"


@dataclass
class Hub:
    """What is offered, and what goes wrong.

    Args:
        folder: of the repository's files.
        drop: files whose first download breaks off in the middle.
        lie: files whose hash is told wrongly.
        refuse: the status that everything is answered with, and its error code.
    """

    folder: Path
    drop: set[str] = field(default_factory=set)
    lie: set[str] = field(default_factory=set)
    refuse: tuple[int, str] | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def digest(self, name: str) -> str:
        return hashlib.sha256((self.folder / name).read_bytes()).hexdigest()

    def info(self) -> dict[str, Any]:
        siblings = []
        for file in sorted(self.folder.iterdir()):
            row: dict[str, Any] = {"rfilename": file.name, "size": file.stat().st_size, "blobId": "0" * 40}
            if file.suffix == ".safetensors":
                told = "f" * 64 if file.name in self.lie else self.digest(file.name)
                row["lfs"] = {"sha256": told, "size": row["size"], "pointerSize": 130}
            siblings.append(row)
        return {
            "id": REPOSITORY,
            "modelId": REPOSITORY,
            "sha": COMMIT,
            "private": False,
            "tags": [],
            "siblings": siblings,
        }

    def tree(self) -> list[dict[str, Any]]:
        rows = []
        for row in self.info()["siblings"]:
            entry = {"type": "file", "path": row["rfilename"], "size": row["size"], "oid": row["blobId"]}
            if "lfs" in row:
                entry["lfs"] = {**row["lfs"], "oid": row["lfs"]["sha256"]}
            rows.append(entry)
        return rows


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.hub.asked.append((self.command, self.path, self.headers.get("Range")))
        if self.hub.refuse is not None:
            return self._say(
                self.hub.refuse[0], {"X-Error-Code": self.hub.refuse[1], "X-Error-Message": "no"}, b"{}", body
            )
        if re.match(rf"/api/models/{REPOSITORY}(/revision/\w+)?(\?|$)", self.path):
            data = json.dumps(self.hub.info()).encode()
            return self._say(200, {"Content-Type": "application/json"}, data, body)
        if self.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            data = json.dumps(self.hub.tree()).encode()
            return self._say(200, {"Content-Type": "application/json"}, data, body)
        found = re.match(rf"/{REPOSITORY}/resolve/\w+/([\w.-]+)", self.path)
        if found is None or not (self.hub.folder / found.group(1)).is_file():
            missing = {"X-Error-Code": "EntryNotFound" if found else "RepoNotFound"}
            return self._say(404, missing, b"", body)
        return self._file(found.group(1), body)

    def _file(self, name: str, body: bool) -> None:
        data = (self.hub.folder / name).read_bytes()
        headers = {"ETag": f'"{self.hub.digest(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = 0
        if (wanted := self.headers.get("Range")) and body:
            start = int(re.match(r"bytes=(\d+)-", wanted).group(1))  # type: ignore[union-attr]
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if body and name in self.hub.drop:
            self.hub.drop.remove(name)
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self._say(206 if start else 200, headers, data[start:], body)

    def _say(self, status: int, headers: dict[str, str], data: bytes, body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The hub's address, while it is open."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
