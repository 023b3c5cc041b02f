"""A server on this machine that speaks the part of the Hugging Face Hub's protocol that dabnn needs.

Repositories live in memory; every commit keeps all files of its revision. As on the Hub, weights go to a
large file storage beside the repositories; other files are in the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

Files = dict[str, bytes]
REFUSALS = {"missing": (404, "RepoNotFound"), "gated": (403, "GatedRepo"), "forbidden": (403, "")}
REFUSALS |= {"unknown": (401, ""), "broken": (500, "")}
"""HTTP status and error code of the ways in which the Hub refuses."""


class Hub(ThreadingHTTPServer):
    """The repositories, and how the server misbehaves.

    Attributes:
        repos: Commits by repository and name of the revision or commit.
        storage: Content of the large files by their SHA-256.
        refused: How every request on a repository is refused, a name of `REFUSALS`, by repository.
        cut: How many more downloads of a file end in the middle, by name.
        downloads: Names of the files that were sent, and from which byte on.
        uploads: SHA-256 of the large files that were received.
        private: Repositories that were made private.
        messages: First lines of the messages of all commits.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, Files]] = {}
        self.heads: dict[str, dict[str, str]] = {}
        self.storage: dict[str, bytes] = {}
        self.refused: dict[str, str] = {}
        self.cut: dict[str, int] = {}
        self.downloads: list[tuple[str, int]] = []
        self.uploads: list[str] = []
        self.private: set[str] = set()
        self.messages: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def create(self, repo: str) -> None:
        """Make a repository without files."""
        self.repos[repo], self.heads[repo] = {}, {}
        self.commit(repo, "main", {})

    def files(self, repo: str, revision: str = "main") -> Files:
        """Return the files of a revision."""
        return self.repos[repo][self.heads[repo][revision]]

    def commit(self, repo: str, revision: str, files: Files, deleted: Collection[str] = ()) -> str:
        """Delete files of a revision and add others; return the new commit."""
        old = self.heads[repo].get(revision)
        kept = {n: b for n, b in (self.repos[repo][old] if old else {}).items() if n not in deleted}
        content = {**kept, **files}
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
        body = self._body()
        if self.path == "/api/repos/create":
            self._create(json.loads(body))
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
                modes = {name: "lfs" if is_large(name) else "regular" for name in names}
                answers = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]
                self._json(200, {"files": answers})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.path):
            if not self._refused(match[1]):
                self._batch(json.loads(body)["objects"])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/?]+).*", self.path):
            if not self._refused(match[1]):
                self._commit(match[1], match[2], body)
        else:
            self._error(404, "EntryNotFound")

    def _body(self) -> bytes:
        """Read what the client sends, as a whole or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _create(self, content: Any) -> None:
        parts = (content.get("organization"), content["name"])
        repo = "/".join(part for part in parts if part)
        if self._refused(repo):
            return
        status = 409 if repo in self.server.repos else 200
        if status == 200:
            self.server.create(repo)
            if content.get("private") or content.get("visibility") == "private":
                self.server.private.add(repo)
        self._json(status, {"url": f"{self.server.endpoint}/{repo}"})

    def _batch(self, objects: list[Any]) -> None:
        """Say where to send large files; what is there already is not asked for again."""
        for entry in objects:
            if entry["oid"] not in self.server.storage:
                entry["actions"] = {"upload": {"href": f"{self.server.endpoint}/storage/{entry['oid']}"}}
        self._json(200, {"objects": objects, "transfer": "basic"})

    def do_PUT(self) -> None:
        content, oid = self._body(), self.path.rpartition("/")[2]
        if sha256(content) == oid:
            self.server.storage[oid] = content
            self.server.uploads.append(oid)
            self._json(200, {})
        else:
            self._error(400, "")

    def _commit(self, repo: str, revision: str, body: bytes) -> None:
        operations = [json.loads(line) for line in body.splitlines()]
        files: Files = {}
        deleted = []
        for key, value in ((operation["key"], operation["value"]) for operation in operations):
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.storage[value["oid"]]
            elif key == "header":
                self.server.messages.append(value["summary"])
            elif key == "deletedFile":
                deleted.append(value["path"])
        oid = self.server.commit(repo, revision, files, deleted)
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
            entries = []
            for name, content in self.server.repos[repo][oid].items():
                entry = {"type": "file", "path": name, "size": len(content), "oid": sha1(content)}
                if is_large(name):
                    entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
                entries.append(entry)
            self._json(200, entries)

    def _file(self, repo: str, revision: str, name: str) -> None:
        if (oid := self._found(repo, revision)) is None:
            return
        content = self.server.repos[repo][oid].get(name)
        if content is None:
            self._error(404, "EntryNotFound")
        elif is_large(name):
            linked = {"X-Linked-ETag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
            self._send(name, content, {"X-Repo-Commit": oid, **linked})
        else:
            self._send(name, content, {"X-Repo-Commit": oid, "ETag": f'"{sha1(content)}"'})

    def _send(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        """Send a file, from the byte on that was asked for; perhaps not to its end."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.downloads.append((name, start))
        if self.server.cut.get(name, 0) > 0:
            self.server.cut[name] -= 1
            self.wfile.write(content[start : (start + len(content)) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def _found(self, repo: str, revision: str) -> str | None:
        if self._refused(repo):
            return None
        oid = self.server.resolve(repo, revision)
        if oid is None:
            self._error(404, "RevisionNotFound")
        return oid

    def _refused(self, repo: str) -> bool:
        kind = self.server.refused.get(repo)
        if kind is None and repo not in self.server.repos and not self.path.endswith("/create"):
            kind = "missing"
        if kind is not None:
            self._error(*REFUSALS[kind])
        return kind is not None

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


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


@contextmanager
def in_place_of_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a server for the block, and make the Hub's client talk to it alone.

    Args:
        cache: Folder of what is downloaded.
        monkeypatch: Undoes the settings of the client.
    """
    with running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server
