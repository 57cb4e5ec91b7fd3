"""A Hub on 127.0.0.1: the part of the Hugging Face Hub's HTTP API that `huggingface_hub`, transformers and datasets use to
create repositories, upload (regular files and Git LFS, not Xet) and download. Everything is kept in memory."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


USER = "someone"
_LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".arrow")
_REPO = r"(?P<kind>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)"
_API_REPO = r"/api/(?P<kind>models|datasets)/(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class File:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repository:
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    head: str = ""

    def __post_init__(self):
        self.commit({}, "initial commit")

    def commit(self, files: dict[str, File], message: str) -> str:
        self.head = hashlib.sha1(f"{self.head} {message} {sorted(files)}".encode()).hexdigest()
        self.commits[self.head] = files
        self.messages.append(message)
        return self.head

    def at(self, revision: str) -> tuple[str, dict[str, File]]:
        """Commit and files of a revision; `KeyError` if there is none."""
        commit = self.head if revision == "main" else revision
        return commit, self.commits[commit]


class HubServer:
    """Serves between `__enter__` and `__exit__` on a free port of 127.0.0.1.

    Attributes:
        endpoint: what `HF_ENDPOINT` must be.
        repositories: by `"models/<id>"` or `"datasets/<id>"`.
        uploads: contents by SHA-256, uploaded through Git LFS.
        requests: `"<method> <path>"` of everything that was asked.
        validated_cards: metadata blocks that the client wanted validated.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.validated_cards: list[str] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def files(self, repository: str) -> dict[str, bytes]:
        """Contents of the files of a repository at its head."""
        found = self.repositories[repository]
        return {path: file.content for path, file in found.commits[found.head].items()}


class _Missing(Exception):
    """Answered with 404; the code tells the client what is missing."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Requests are noted by the server instead of being printed."""

    def _serve(self):
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
        self._body = self._read_body()
        try:
            for methods, pattern, answer in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods:
                    return answer(self, query=query, **match.groupdict())
            raise _Missing("RouteNotFound")
        except _Missing as missing:
            return self._send(b'{"error": "not found"}', status=404, headers={"X-Error-Code": missing.code})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_json(self, answer, status: int = 200):
        self._send(json.dumps(answer).encode(), status)

    def _repository(self, kind: str | None, repo: str) -> Repository:
        key = f"{(kind or 'models').strip('/')}/{repo}"
        if key not in self.hub.repositories:
            raise _Missing("RepoNotFound")
        return self.hub.repositories[key]

    def _at(self, kind: str | None, repo: str, revision: str | None) -> tuple[str, dict[str, File]]:
        try:
            return self._repository(kind, repo).at(revision or "main")
        except KeyError:
            raise _Missing("RevisionNotFound") from None

    def whoami(self, query):
        self._send_json({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})

    def create(self, query):
        wanted = json.loads(self._body)
        kind = f"{wanted.get('type') or 'model'}s"
        repo = f"{wanted.get('organization') or USER}/{wanted['name']}"
        with self.hub.lock:
            exists = f"{kind}/{repo}" in self.hub.repositories
            self.hub.repositories.setdefault(f"{kind}/{repo}", Repository())
        prefix = "" if kind == "models" else f"{kind}/"
        self._send_json({"url": f"{self.hub.endpoint}/{prefix}{repo}"}, status=409 if exists else 200)

    def validate_card(self, query):
        self.hub.validated_cards.append(json.loads(self._body)["content"])
        self._send_json({"errors": [], "warnings": []})

    def info(self, query, kind, repo, revision=None):
        commit, files = self._at(kind, repo, revision)
        self._send_json(
            {
                "id": repo,
                "modelId": repo,
                "sha": commit,
                "private": False,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
        )

    def refs(self, query, kind, repo):
        head = self._repository(kind, repo).head
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": head}
        self._send_json({"branches": [branch], "tags": [], "converts": [], "pullRequests": []})

    def preupload(self, query, kind, repo, revision):
        self._at(kind, repo, revision)
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self._body)["files"]
        ]
        self._send_json({"files": modes})

    def lfs_batch(self, query, kind, repo):
        self._repository(kind, repo)
        objects = []
        for item in json.loads(self._body)["objects"]:
            known = item["oid"] in self.hub.uploads
            upload = {"upload": {"href": f"{self.hub.endpoint}/lfs/{item['oid']}"}}
            objects.append(item | ({} if known else {"actions": upload}))
        self._send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, query, oid):
        if hashlib.sha256(self._body).hexdigest() != oid:
            return self._send(b"", status=400)
        self.hub.uploads[oid] = self._body
        self._send(b"")

    def commit(self, query, kind, repo, revision):
        repository = self._repository(kind, repo)
        operations = [json.loads(line) for line in self._body.splitlines() if line]
        with self.hub.lock:
            files, message = dict(self._at(kind, repo, revision)[1]), ""
            for operation in operations:
                value = operation["value"]
                if operation["key"] == "header":
                    message = value["summary"]
                elif operation["key"] == "file":
                    files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
                elif operation["key"] == "lfsFile":
                    files[value["path"]] = File(self.hub.uploads[value["oid"]], lfs=True)
                elif operation["key"] == "deletedFile":
                    del files[value["path"]]
                else:
                    folder = value["path"].rstrip("/") + "/"
                    files = {path: file for path, file in files.items() if not path.startswith(folder)}
            commit = repository.commit(files, message)
        self._send_json(
            {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}"}
        )

    def tree(self, query, kind, repo, revision, path=None):
        _, files = self._at(kind, repo, revision)
        prefix = f"{path.strip('/')}/" if path else ""
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries, folders = [], set()
        for name, file in sorted(files.items()):
            if not name.startswith(prefix):
                continue
            parts = name.removeprefix(prefix).split("/")
            folders.update(prefix + "/".join(parts[:depth]) for depth in range(1, len(parts) if recursive else 2))
            if recursive or len(parts) == 1:
                entries.append(self._entry(name, file))
        folders -= files.keys()
        if prefix and not entries and not folders:
            raise _Missing("EntryNotFound")
        self._send_json(
            [{"type": "directory", "path": folder, "oid": "0" * 40} for folder in sorted(folders)] + entries
        )

    def paths_info(self, query, kind, repo, revision):
        _, files = self._at(kind, repo, revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            wanted = json.loads(self._body)["paths"]
        else:
            wanted = parse_qs(self._body.decode())["paths"]
        entries = []
        for path in wanted:
            if path in files:
                entries.append(self._entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                entries.append({"type": "directory", "path": path, "oid": "0" * 40})
        self._send_json(entries)

    @staticmethod
    def _entry(path: str, file: File) -> dict:
        entry = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob_id}
        if file.lfs:
            entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}
        return entry

    def resolve(self, query, kind, repo, revision, path):
        commit, files = self._at(kind, repo, revision)
        if path not in files:
            raise _Missing("EntryNotFound")
        file = files[path]
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Repo-Commit": commit,
            "ETag": f'"{file.sha256 if file.lfs else file.blob_id}"',
            "Accept-Ranges": "bytes",
        }
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return self._send(file.content, headers=headers)
        first, last = int(span[1]), min(int(span[2] or len(file.content)), len(file.content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(file.content)}"
        self._send(file.content[first : last + 1], status=206, headers=headers)


_ROUTES = (
    (("GET",), r"/api/whoami-v2", _Handler.whoami),
    (("POST",), r"/api/repos/create", _Handler.create),
    (("POST",), r"/api/validate-yaml", _Handler.validate_card),
    (("GET",), rf"{_API_REPO}", _Handler.info),
    (("GET",), rf"{_API_REPO}/revision/(?P<revision>[^/]+)", _Handler.info),
    (("GET",), rf"{_API_REPO}/refs", _Handler.refs),
    (("POST",), rf"{_API_REPO}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (("POST",), rf"{_API_REPO}/commit/(?P<revision>[^/]+)", _Handler.commit),
    (("GET",), rf"{_API_REPO}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", _Handler.tree),
    (("POST",), rf"{_API_REPO}/paths-info/(?P<revision>[^/]+)", _Handler.paths_info),
    (("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("PUT",), r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_upload),
    (("GET", "HEAD"), rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
)
