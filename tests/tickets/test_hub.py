"""Cards, and tickets on a hub: a local server that speaks the calls that are used."""

import base64
import hashlib
import http.server
import json
import sys
import threading
import types

import pytest
import yaml

from lottery_jax import tickets
from lottery_jax.errors import EnvironmentFault, TicketError
from lottery_jax.tickets import cards, hub
from lottery_jax.tickets.__main__ import main
from tests.helpers import assert_same, synthetic_ticket

COMMIT = "a" * 40
HUB = types.SimpleNamespace()  # the one that serves: its url, the files and who may see them


class Server(http.server.BaseHTTPRequestHandler):
    """Repositories in memory, with the calls by which huggingface_hub uploads and downloads."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hosted, path = HUB.hosted, self.path
        if self.headers.get("Authorization") != "Bearer hf_secret":
            return self.answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            HUB.private[name] = wanted.get("private") or wanted.get("visibility")
            hosted.setdefault(name, {})
            return self.answer(200, {"url": f"{HUB.url}/{name}"})
        if path.endswith("/preupload/main"):
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in json.loads(body)["files"]]  # fmt: skip
            return self.answer(200, {"files": files})
        if path.endswith("/commit/main"):
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    hosted[name][value["path"]] = base64.b64decode(value["content"])
            url = f"{HUB.url}/{name}/commit/{COMMIT}"
            return self.answer(200, {"commitUrl": url, "commitOid": COMMIT})
        return self.answer(200, {})  # of a card, whether its front matter is legal

    def do_GET(self):
        name, found, file = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = file.partition("/")
        if not found or name not in HUB.hosted:
            return self.answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", COMMIT):
            return self.answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        if file not in HUB.hosted[name]:
            return self.answer(404, {}, {"X-Error-Code": "EntryNotFound"})
        content = HUB.hosted[name][file]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def answer(self, status, content, headers=()):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    HUB.url = f"http://127.0.0.1:{serving.server_port}"
    HUB.hosted, HUB.private = {}, {}
    threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", HUB.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    yield HUB
    serving.shutdown()
    serving.server_close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "mine.safetensors"
    return path, tickets.save_portable(path, synthetic_ticket("lenet_300_100", (8, 8, 1), 0.2))


def front_matter(text):
    _, front, _ = text.split("---\n", 2)
    return yaml.safe_load(front)


def test_a_ticket_is_pushed_and_comes_back(server, saved, tmp_path, capsys):
    """What is pulled is the ticket, bit for bit, and `hf://` names it in Python."""
    path, ticket = saved
    assert main(["push", str(path), "me/lenet", "--private"]) == 0
    assert f"uploaded hf://me/lenet, {server.url}/me/lenet/commit/" in capsys.readouterr().out
    assert set(server.hosted["me/lenet"]) == {"README.md", "config.json", "ticket.safetensors"}
    assert server.private["me/lenet"] in (True, "private")
    assert '"hf://me/lenet"' in server.hosted["me/lenet"]["README.md"].decode()
    assert main(["pull", "me/lenet", str(tmp_path / "pulled")]) == 0
    for address in (tmp_path / "pulled", "hf://me/lenet", f"hf://me/lenet@{COMMIT}",
                    "hf://me/lenet/ticket.safetensors"):  # fmt: skip
        loaded = tickets.load_ticket(address)
        assert_same(loaded.trained, ticket.trained)
        assert_same(loaded.mask, ticket.mask)
    assert tickets.read_metadata("hf://me/lenet") == ticket.metadata
    assert main(["verify", "hf://me/lenet"]) == 0
    assert main(["pull", "me/lenet", str(tmp_path / "pulled")]) == 2
    assert "--force replaces it" in capsys.readouterr().err


def test_what_is_not_on_the_hub_is_one_line(server, saved, capsys):
    path, _ = saved
    server.hosted["me/empty"] = {}
    for name in ("me/nothing", "me/empty", "me/empty@v2", "me/empty/other.safetensors"):
        with pytest.raises(TicketError, match=rf"^hf://{name}: can't be fetched \({server.url}"):
            tickets.load_ticket(f"hf://{name}")
    for name in ("lenet", "me/lenet/../x", "me/lenet/model.bin", "me/lenet@", "me/a b"):
        with pytest.raises(TicketError, match="is not hf://USER/REPO, perhaps with"):
            tickets.load_ticket(f"hf://{name}")
    assert main(["push", str(path), "lenet"]) == 2
    assert "lenet: is not USER/REPO" in capsys.readouterr().err


def test_without_a_hub_or_without_leave_it_is_one_line(server, saved, monkeypatch):
    _, ticket = saved
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(TicketError, match=r"^hf://me/lenet: can't be uploaded .*401"):
        hub.push(ticket, "me/lenet")
    assert not server.hosted
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TicketError, match=r"^hf://me/lenet: can't be fetched .*LocalEntryNotFound"):
        tickets.load_ticket("hf://me/lenet")


def test_a_strangers_file_is_checked_as_any_other(server, saved):
    """What is no ticket, and one whose weights were changed, do not load."""
    path, _ = saved
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    server.hosted["they/changed"] = {"ticket.safetensors": bytes(content)}
    server.hosted["they/pickle"] = {"ticket.safetensors": b"\x80\x04cos\nsystem\n."}
    with pytest.raises(TicketError, match="is damaged"):
        tickets.load_ticket("hf://they/changed")
    with pytest.raises(TicketError, match="is not a readable safetensors file"):
        tickets.load_ticket("hf://they/pickle")


def test_without_the_package_the_extra_is_named(saved, monkeypatch):
    _, ticket = saved
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for attempt in (lambda: tickets.load_ticket("hf://me/lenet"), lambda: hub.push(ticket, "a/b")):
        with pytest.raises(EnvironmentFault, match=r"pip install 'lottery_jax\[hub\]'$"):
            attempt()


def test_a_card_folder_has_all_that_a_reader_needs(saved, tmp_path, capsys):
    path, ticket = saved
    folder = tmp_path / "card"
    assert main(["card", str(path), str(folder), "--license=mit"]) == 0
    assert main(["card", str(path), str(folder)]) == 2
    assert "--force replaces it" in capsys.readouterr().err
    text = (folder / "README.md").read_text()
    front = front_matter(text)
    assert (front["library_name"], front["license"]) == ("lottery_jax", "mit")
    assert (front["datasets"], front["metrics"]) == (["digits"], ["accuracy"])
    assert {"lottery-ticket", "pruning", "jax"} <= set(front["tags"])
    assert f"{ticket.metadata['weights_remaining']} of {ticket.metadata['weights_total']}" in text
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == ticket.metadata["model"] and config["library_name"] == "lottery_jax"
    assert_same(tickets.load_ticket(folder / config["ticket"]).trained, ticket.trained)


def test_a_card_states_what_was_measured(saved):
    metadata = {**saved[1].metadata, "result": {"test_accuracy": 0.875, "epochs": 3}, "seed": 4}
    text = cards.ticket_card(metadata, "hf://me/lenet")
    (model,) = front_matter(text)["model-index"]
    (result,) = model["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.875}]
    assert "| test accuracy | 0.875 |" in text and "| seed | 4 |" in text


def test_no_name_breaks_out_of_its_place_in_a_card(saved):
    """A stranger's metadata can hold any text."""
    bad = "x\n---\nlicense: mit\n| <script> [a](b) |"
    text = cards.ticket_card({**saved[1].metadata, "data": bad, "control": bad}, bad)
    front = front_matter(text)
    assert (front["license"], front["datasets"]) == ("apache-2.0", [bad])
    assert "<script>" not in text.split("---\n", 2)[2].partition("```")[0]
    with pytest.raises(TicketError, match="its metadata can't be shown"):
        cards.ticket_card({**saved[1].metadata, "density": "much"}, "a")
