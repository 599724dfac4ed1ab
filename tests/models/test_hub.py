"""Models of the hub: downloaded once from a server that speaks as the hub does, pinned by commit; offline, one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from language_world import write_folder

from squeeze.models.hub import is_hub_id
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.spec import ModelSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"
READ = """
import sys
from pathlib import Path
from squeeze.models.spec import ModelSpec
root = Path(sys.argv[1])
spec = ModelSpec(hf="org/tiny")
print(spec.folder(root), spec.origin(root)["commit"])
"""


class Hub(BaseHTTPRequestHandler):
    """The two answers that a download needs: what a repository holds, and each of its files."""

    folder: Path

    def do_GET(self) -> None:
        if self.path.startswith(f"/api/models/org/tiny/tree/{COMMIT}"):
            files = sorted(self.folder.iterdir())
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in files]
            self._answer(json.dumps(tree).encode())
        elif self.path.startswith("/api/models/org/tiny"):
            names = [{"rfilename": path.name} for path in sorted(self.folder.iterdir())]
            self._answer(json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": names}).encode())
        elif self.path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            self._answer((self.folder / self.path.rpartition("/")[2]).read_bytes())
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    folder = write_folder(tmp_path / "served")
    (folder / "code.py").write_text("raise SystemExit('code of a stranger ran')")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def read(root: Path, hub: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(root / "cache"), "HF_HUB_OFFLINE": "0"}
    return subprocess.run([sys.executable, "-c", READ, str(root)], capture_output=True, text=True, env=env, check=False)


def test_a_model_of_the_hub_is_pinned_by_its_commit_and_read_again_offline(tmp_path: Path, hub: str) -> None:
    done = read(tmp_path, hub)
    assert done.stdout.split()[1:] == [COMMIT], done.stderr
    assert not list((tmp_path / "cache").rglob("*.py"))
    assert read(tmp_path, "http://127.0.0.1:9").stdout == done.stdout
    (tmp_path / "saved").mkdir()
    LanguageModel(Path(done.stdout.split()[0])).save(tmp_path / "saved")
    assert not any(file.is_symlink() for file in (tmp_path / "saved").iterdir())


def test_offline_ends_in_one_line(tmp_path: Path) -> None:
    done = read(tmp_path, "http://127.0.0.1:9")
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("squeeze.errors.ModelError: org/tiny: no folder here, the hub cannot be asked (ConnectError")
    assert line.endswith("; a folder, or one try with a network, would do")


def test_what_may_be_a_path_is_no_id_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    assert is_hub_id("org/name", tmp_path)
    for path in ("models/gone", "./org/name", "../org/name", "org", "org/name/more", "/org/name", "org/..", "-o/name"):
        assert not is_hub_id(path, tmp_path), path
    assert not ModelSpec(onnx="org/name").of_hub(tmp_path)
