"""--push against a server on this machine that answers as the hub does, and keeps what it gets."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cxr_jax.weights.export import main, push
from tests.weights.make_encoder import make_encoder

hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
VIT = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 32}


@pytest.fixture
def server(monkeypatch):
    """Answers the requests of create_repo and upload_folder; `.asked` holds them."""

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
            asked.append((self.path, body))
            if self.path == "/api/repos/create":
                answer = {"url": f"{address}/me/encoder", "id": "me/encoder", "name": "me/encoder"}
            elif "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(body)["files"]]
                answer = {
                    "files": [
                        {"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names
                    ]
                }
            else:
                answer = {"commitOid": "0" * 40, "commitUrl": f"{address}/me/encoder/commit/0"}
            self._send(200, answer)

        def do_GET(self):
            if self.path.startswith("/api/models/me/"):
                name = self.path.removeprefix("/api/models/")
                self._send(200, {"id": name, "private": name != "me/public"})
            else:
                self._send(404, {"error": "no such thing here"})

        do_HEAD = do_GET

        def _send(self, status, answer):
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_): ...

    asked = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{running.server_port}"
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_stub")
    yield asked
    running.shutdown()


def test_an_export_is_uploaded_whole_into_a_private_repository(server, tmp_path, capsys):
    _, source = make_encoder(VIT, 32, tmp_path / "ours")
    out = main([source, "--format=huggingface", f"--out={tmp_path / 'out'}", "--push=me/encoder"])
    created = json.loads(dict(server)["/api/repos/create"])
    private = created.get("private") is True or created.get("visibility") == "private"
    assert private and created["name"] == "encoder"
    (commit,) = [body for path, body in server if "/commit/" in path]
    sent = [json.loads(line) for line in commit.splitlines()]
    files = {
        entry["value"]["path"]: base64.b64decode(entry["value"]["content"])
        for entry in sent
        if entry["key"] == "file"
    }
    assert files == {path.name: path.read_bytes() for path in out.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} == {*files}
    assert "Uploaded: http://127.0.0.1" in capsys.readouterr().out
    head = hub.ModelCard(files["README.md"].decode()).data.to_dict()
    assert head["library_name"] == "transformers" and "chest-x-ray" in head["tags"]


def test_what_the_hub_refuses_is_said_and_the_export_stays(server, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"--push=encoder: write OWNER/NAME"):
        push(tmp_path, "encoder")
    with pytest.raises(ValueError, match=r"--push=me/public: that model is public already"):
        push(tmp_path, "me/public")
    assert [path for path, _ in server] == ["/api/repos/create"]
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ValueError, match=r"does not take it .* stays in .* `hf upload me/encoder"):
        push(tmp_path, "me/encoder")
