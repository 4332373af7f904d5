"""A Hugging Face Hub in a thread: enough of its HTTP interface for the real `huggingface_hub` client.

Serves model repositories from memory: repository information, file trees, downloads (with ranges), creation and
commits. Every file is a regular one (no LFS, no xet). As on the real hub, an unknown repository answers 401, an unknown
revision or file 404 with the error code in a header, and writing needs a token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "t" * 34
USER = "tester"
MAIN = "main"


def git_blob_id(content: bytes) -> str:
    """What git calls a file of this content; the hub's entity tag of a regular file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """The commits of one repository, oldest first; each a name and its files."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        content = repr([len(self.commits), sorted((path, git_blob_id(data)) for path, data in files.items())])
        name = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
        self.commits.append((name, files))
        return name

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == MAIN:
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class LocalHub:
    """The hub as a context manager; `url` is what `HF_ENDPOINT` has to be, `requests` what clients asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []

    def __enter__(self) -> LocalHub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def publish(self, repository: str, folder: Path) -> str:
        """Put the files of `folder` into a repository, as one commit; its name."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.repositories.setdefault(repository, Repository()).commit(files)


class _Refusal(Exception):
    def __init__(self, status: int, code: str, message: str, **answer: str) -> None:
        self.status, self.code, self.message, self.answer = status, code, message, answer


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: a test reads `LocalHub.requests` instead."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} /{path}")
        try:
            if self.command == "POST":
                self._send_json(self._post(path.split("/"), body))
            elif path.startswith("api/"):
                self._send_json(self._get_information(path.split("/")))
            else:
                self._send_file(path.split("/"))
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send(refusal.status, json.dumps({"error": refusal.message, **refusal.answer}).encode(), headers)

    def _get_information(self, parts: list[str]) -> Any:
        match parts:
            case ["api", "whoami-v2"]:
                self._require_token()
                return {"type": "user", "name": USER, "orgs": []}
            case ["api", "models", owner, name]:
                return self._information(f"{owner}/{name}", MAIN)
            case ["api", "models", owner, name, "revision", revision]:
                return self._information(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "tree", revision, *folder]:
                return self._tree(f"{owner}/{name}", revision, "".join(f"{part}/" for part in folder))
        raise _Refusal(404, "NotFound", f"This hub has no /{'/'.join(parts)}.")

    def _information(self, repository: str, revision: str) -> dict[str, Any]:
        commit, files = self._commit(repository, revision)
        return {
            "_id": git_blob_id(repository.encode())[:24],
            "id": repository,
            "modelId": repository,
            "sha": commit,
            "private": False,
            "disabled": False,
            "gated": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "library_name": "transformers",
            "siblings": [{"rfilename": path} for path in files],
        }

    def _tree(self, repository: str, revision: str, folder: str) -> list[dict[str, Any]]:
        _, files = self._commit(repository, revision)
        entries = [
            {"type": "file", "oid": git_blob_id(content), "size": len(content), "path": path}
            for path, content in files.items()
            if path.startswith(folder)
        ]
        if folder and not entries:
            raise _Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}.")
        return entries

    def _send_file(self, parts: list[str]) -> None:
        match parts:
            case [owner, name, "resolve", revision, *path]:
                commit, files = self._commit(f"{owner}/{name}", revision)
            case _:
                raise _Refusal(404, "NotFound", f"This hub has no /{'/'.join(parts)}.")
        content = files.get("/".join(path))
        if content is None:
            raise _Refusal(404, "EntryNotFound", f"{'/'.join(path)} does not exist on {revision}.")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_blob_id(content)}"', "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, content, headers)
            return
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        first, last = int(start), int(end) if end else len(content) - 1
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers)

    def _post(self, parts: list[str], body: bytes) -> Any:
        self._require_token()
        match parts:
            case ["api", "validate-yaml"]:
                return {"errors": [], "warnings": []}
            case ["api", "repos", "create"]:
                wanted = json.loads(body)
                repository = f"{wanted.get('organization') or USER}/{wanted['name']}"
                url = f"{self.hub.url}/{repository}"
                if repository in self.hub.repositories:
                    raise _Refusal(409, "Conflict", "You already created this model repo.", url=url)
                self.hub.repositories[repository] = Repository()
                self.hub.repositories[repository].commit({})
                return {"url": url, "id": repository, "name": repository}
            case ["api", "models", owner, name, "preupload", revision]:
                self._commit(f"{owner}/{name}", revision)
                wanted = json.loads(body)["files"]
                return {
                    "files": [{"path": row["path"], "uploadMode": "regular", "shouldIgnore": False} for row in wanted]
                }
            case ["api", "models", owner, name, "commit", revision]:
                _, files = self._commit(f"{owner}/{name}", revision)
                rows = [json.loads(line) for line in body.splitlines() if line.strip()]
                added = {
                    row["value"]["path"]: base64.b64decode(row["value"]["content"])
                    for row in rows
                    if row["key"] == "file"
                }
                commit = self.hub.repositories[f"{owner}/{name}"].commit({**files, **added})
                return {"commitUrl": f"{self.hub.url}/{owner}/{name}/commit/{commit}", "commitOid": commit}
        raise _Refusal(404, "NotFound", f"This hub has no /{'/'.join(parts)} to post to.")

    def _commit(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]]:
        if repository not in self.hub.repositories:
            raise _Refusal(401, "RepoNotFound", "Repository not found")
        commit = self.hub.repositories[repository].at(revision)
        if commit is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _require_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refusal(401, "Unauthorized", "Invalid username or password.")

    def _send_json(self, answer: Any) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
