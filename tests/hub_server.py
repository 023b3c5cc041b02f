"""A server on this machine that speaks the part of the Hugging Face Hub's protocol that dabnn needs.

Repositories live in memory; every commit keeps all files of its revision. Files are taken as "regular", in
the commit itself, which is what the Hub asks for small ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """The repositories, and how the server misbehaves.

    Attributes:
        repos: Commits by repository and name of the revision or commit.
        status: HTTP status with which every request on a repository is answered, by repository.
        cut: Names of files whose download ends in the middle.
        downloads: Paths of the files that were sent.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, Files]] = {}
        self.heads: dict[str, dict[str, str]] = {}
        self.status: dict[str, int] = {}
        self.cut: set[str] = set()
        self.downloads: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo: str, revision: str, files: Files) -> str:
        """Add files to a revision; return the new commit."""
        old = self.heads[repo].get(revision)
        content = {**(self.repos[repo][old] if old else {}), **files}
        oid = hashlib.sha1(repr((old, sorted(content.items()))).encode()).hexdigest()
        self.repos[repo][oid] = content
        self.heads[repo][revision] = oid
        return oid

    def resolve(self, repo: str, revision: str) -> str | None:
        """Return the commit of a revision, or the commit itself."""
        found = self.heads[repo].get(revision, revision)
        return found if found in self.repos[repo] else None


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            content = json.loads(body)
            repo = (
                f"{content['organization']}/{content['name']}"
                if content.get("organization")
                else content["name"]
            )
            if self._refused(repo):
                return
            status = 409 if repo in self.server.repos else 200
            if status == 200:
                self.server.repos[repo], self.server.heads[repo] = {}, {}
                self.server.commit(repo, "main", {})
            self._json(status, {"url": f"{self.server.endpoint}/{repo}"})
        elif self.path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", self.path):
            repo, branch = match.groups()
            if not self._refused(repo):
                self.server.heads[repo][branch] = self.server.heads[repo]["main"]
                self._json(200, {})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/?]+).*", self.path):
            if not self._refused(match[1]):
                names = [file["path"] for file in json.loads(body)["files"]]
                answers = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
                self._json(200, {"files": answers})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/?]+).*", self.path):
            if not self._refused(match[1]):
                self._commit(match[1], match[2], body)
        else:
            self._error(404, "EntryNotFound")

    def _commit(self, repo: str, revision: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        oid = self.server.commit(repo, revision, files)
        self._json(
            200,
            {"commitUrl": f"{self.server.endpoint}/{repo}/commit/{oid}", "commitOid": oid, "success": True},
        )

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?(?:\?.*)?", self.path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+).*", self.path):
            self._tree(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
            self._file(*match.groups())
        else:
            self._error(404, "EntryNotFound")

    def _info(self, repo: str, revision: str) -> None:
        if (oid := self._found(repo, revision)) is not None:
            siblings = [{"rfilename": name} for name in self.server.repos[repo][oid]]
            self._json(200, {"id": repo, "modelId": repo, "sha": oid, "siblings": siblings, "private": False})

    def _tree(self, repo: str, revision: str) -> None:
        if (oid := self._found(repo, revision)) is not None:
            files = self.server.repos[repo][oid].items()
            self._json(200, [{"type": "file", "path": n, "size": len(b), "oid": etag(b)} for n, b in files])

    def _file(self, repo: str, revision: str, name: str) -> None:
        if (oid := self._found(repo, revision)) is None:
            return
        content = self.server.repos[repo][oid].get(name)
        if content is None:
            self._error(404, "EntryNotFound")
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", oid)
        self.send_header("ETag", f'"{etag(content)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.downloads.append(name)
        self.wfile.write(content[: len(content) // 2] if name in self.server.cut else content)
        if name in self.server.cut:
            self.close_connection = True

    def _found(self, repo: str, revision: str) -> str | None:
        if self._refused(repo):
            return None
        oid = self.server.resolve(repo, revision)
        if oid is None:
            self._error(404, "RevisionNotFound")
        return oid

    def _refused(self, repo: str) -> bool:
        status = self.server.status.get(repo)
        if status is None and repo not in self.server.repos and not self.path.endswith("/create"):
            status = 404
        if status is not None:
            self._error(status, {404: "RepoNotFound", 403: "GatedRepo"}.get(status, ""))
        return status is not None

    def _error(self, status: int, code: str) -> None:
        self._json(status, {"error": code}, {"X-Error-Code": code} if code else {})

    def _json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """Run a server for the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
