"""A Hub on the loopback: it keeps what is uploaded and gives it back, as far as publishing and loading need it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "c" * 40
# Files of these kinds go up by themselves, the others within the commit.
LARGE = (".safetensors", ".png")


@dataclass
class Hub:
    """What the stand-in holds; `refusal` is the HTTP code that it answers every request with, if any."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    refusal: int = 0


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            """Silence."""

        def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, content: Any, code: int = 200, **headers: str) -> None:
            self._answer(code, json.dumps(content).encode(), Content_Type="application/json", **headers)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _refused(self) -> bool:
            if hub.refusal:
                self._body()
                self._json({"error": "said the stand-in"}, hub.refusal)
            return bool(hub.refusal)

        def do_POST(self) -> None:
            if self._refused():
                return
            body = self._body()
            if self.path == "/api/repos/create":
                hub.created.append(json.loads(body))
                self._json({"url": f"{hub.address}/{hub.created[-1].get('organization')}/{hub.created[-1]['name']}"})
            elif self.path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                names = [one["path"] for one in json.loads(body)["files"]]
                modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
                files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
                self._json({"files": files})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**one, "actions": {"upload": {"href": f"{hub.address}/objects/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                self._json({"transfer": "basic", "objects": objects})
            elif "/commit/" in self.path:
                self._commit([json.loads(line) for line in body.splitlines()])
            else:
                self._json({"error": f"no such place: {self.path}"}, 404)

        def _commit(self, lines: list[dict[str, Any]]) -> None:
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
            self._json({"commitUrl": f"{hub.address}/owner/name/commit/{COMMIT}", "commitOid": COMMIT})

        def do_PUT(self) -> None:
            hub.objects[self.path.rsplit("/", 1)[-1]] = self._body()
            self._answer(200)

        def do_GET(self) -> None:
            if self._refused():
                return
            path = unquote(self.path.split("?")[0])
            if path.startswith("/api/models/"):
                siblings = [{"rfilename": name} for name in sorted(hub.files)]
                tree = [
                    {"type": "file", "path": name, "size": len(hub.files[name]), "oid": COMMIT} for name in hub.files
                ]
                self._json(tree if "/tree/" in path else {"id": "owner/name", "sha": COMMIT, "siblings": siblings})
            elif "/resolve/" in path:
                content = hub.files.get(path.split("/resolve/", 1)[1].split("/", 1)[1])
                if content is None:
                    self._answer(404, X_Error_Code="EntryNotFound")
                else:
                    self._answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')
            else:
                self._json({"error": f"no such place: {path}"}, 404)

        do_HEAD = do_GET

    return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A stand-in that answers until the block is left."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
