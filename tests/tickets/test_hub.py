"""Cards, and tickets on a hub: a local server that speaks the calls that are used."""

import base64
import dataclasses
import hashlib
import http.server
import json
import sys
import threading
import types

import pytest
import yaml

from lottery_jax import evaluate, tickets
from lottery_jax.errors import ConfigError, EnvironmentFault, TicketError
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
        if revision not in ("main", COMMIT, *HUB.revisions):
            return self.answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        if file not in HUB.hosted[name]:
            return self.answer(404, {}, {"X-Error-Code": "EntryNotFound"})
        content = HUB.hosted[name][file]
        HUB.requests.append((self.command, revision, file))
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def answer(self, status, content, headers=()):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {**dict(headers), "Content-Length": str(len(content)), **HUB.changed}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    HUB.url = f"http://127.0.0.1:{serving.server_port}"
    HUB.hosted, HUB.private, HUB.requests, HUB.revisions = {}, {}, [], []
    HUB.changed = {}  # headers of every answer; None: it is left out
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


@pytest.mark.parametrize(
    "name",
    ["me/lenet@{0}/victim", "me/lenet@../../{0}/victim", "me/lenet@..", "me/lenet@a/../../x",
     "me/lenet@.%2F..%2Fx", "me/lenet@%2Fx", "me/lenet@a%2F..%2Fx", "../lenet", "me/..",
     "me/lenet/a\n/../../x.safetensors", "me/lenet//x.safetensors", "me/lenet/..",
     "me/lenet/a/../x.safetensors", "me/lenet/.safetensors", "me/lenet@v1\n"],
)  # fmt: skip
def test_no_name_reaches_out_of_the_cache(server, saved, tmp_path, name):
    """The hub answers to every revision, so that the name alone decides which files are written."""
    server.hosted["me/lenet"] = {"ticket.safetensors": saved[0].read_bytes()}
    victim = tmp_path / "victim"
    victim.write_text("precious")
    name = name.format(tmp_path)
    server.revisions = [name.partition("@")[2], str(victim)]
    with pytest.raises(TicketError, match="is not hf://USER/REPO, perhaps with"):
        hub.fetch(name)
    assert victim.read_text() == "precious" and list(tmp_path.iterdir()) == [victim]
    assert not server.requests


@pytest.mark.parametrize(
    "name, revision, file",
    [
        ("me/lenet@v1.0", "v1.0", "ticket.safetensors"),
        ("me/lenet@new%2Fidea/a/b.safetensors", "new%2Fidea", "a/b.safetensors"),
        ("me/lenet@refs/pr/1/ticket.safetensors", "refs%2Fpr%2F1", "ticket.safetensors"),
        ("me/lenet@refs%2Fpr%2F1", "refs%2Fpr%2F1", "ticket.safetensors"),
        ("me/lenet@refs/convert/x", "refs%2Fconvert%2Fx", "ticket.safetensors"),
    ],
)
def test_a_revision_and_a_file_are_told_apart(server, saved, name, revision, file):
    server.hosted["me/lenet"] = {file: saved[0].read_bytes()}
    server.revisions = [revision]
    assert hub.fetch(name).read_bytes() == saved[0].read_bytes()
    assert set(server.requests) == {(verb, revision, file) for verb in ("HEAD", "GET")}


@pytest.mark.parametrize(
    "header, value",
    [("ETag", '"../../../victim"'), ("ETag", '"/victim"'), ("X-Repo-Commit", "../../../../victim"),
     ("X-Repo-Commit", ".."), ("X-Repo-Commit", None), ("ETag", None), ("Content-Length", None)],
)  # fmt: skip
def test_no_answer_of_a_server_reaches_out_of_the_cache(server, saved, tmp_path, header, value):
    server.hosted["they/net"] = {"ticket.safetensors": saved[0].read_bytes()}
    server.changed = {header: value}
    with pytest.raises(TicketError, match=r"^hf://they/net: can't be fetched \("):
        hub.fetch("they/net")
    assert {verb for verb, *_ in server.requests} == {"HEAD"}
    assert not [path for path in tmp_path.rglob("*") if "victim" in path.name]


def test_a_file_is_no_larger_than_the_limit(server, saved, monkeypatch):
    content = saved[0].read_bytes()
    server.hosted["they/large"] = {"ticket.safetensors": content}
    monkeypatch.setenv(hub.LIMIT, str((len(content) - 1) / 1e6))
    with pytest.raises(TicketError, match=rf"more than the limit of .* MB; .* set {hub.LIMIT}"):
        tickets.load_ticket("hf://they/large")
    assert {verb for verb, *_ in server.requests} == {"HEAD"}
    monkeypatch.setenv(hub.LIMIT, "much")
    with pytest.raises(ConfigError, match="'much' is not a number of megabytes"):
        tickets.load_ticket("hf://they/large")
    monkeypatch.setenv(hub.LIMIT, str(len(content) / 1e6))
    tickets.load_ticket("hf://they/large")


class Changing(dict):
    """A repository whose files and answers are others from the second request on."""

    def __init__(self, first, second, headers):
        super().__init__(first)
        self.second, self.headers, self.requests = second, headers, 0

    def __getitem__(self, file):
        self.requests += 1
        if self.requests == 1:
            return super().__getitem__(file)
        HUB.changed = self.headers
        return self.second


@pytest.mark.parametrize(
    "header, message", [(None, "more than the limit"), ("ETag", "out of the cache")]
)
def test_a_server_that_answers_otherwise_later_is_refused(
    server, saved, tmp_path, monkeypatch, header, message
):
    """A download asks the server again. What came of it is not opened, with the hub or without."""
    content = saved[0].read_bytes()
    second = content + b" " * 1000 if header is None else content
    headers = {header: '"../../../victim"'} if header else {}
    server.hosted["they/net"] = Changing({"ticket.safetensors": content}, second, headers)
    monkeypatch.setenv(hub.LIMIT, str(len(content) / 1e6))
    with pytest.raises(TicketError, match=rf"^hf://they/net: .*{message}"):
        hub.fetch("they/net")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TicketError, match=rf"^hf://they/net: .*{message}"):
        hub.fetch("they/net")


def test_evaluate_fetches_a_ticket_once(server, saved, capsys):
    server.hosted["me/lenet"] = {"ticket.safetensors": saved[0].read_bytes()}
    hub.fetch("me/lenet")
    once = len(server.requests)
    hub.fetch("me/lenet")
    again = len(server.requests) - once
    assert evaluate.main(["--ticket=hf://me/lenet", "--data=digits"]) == 0
    assert "of the prunable weights" in capsys.readouterr().out
    assert len(server.requests) == once + 2 * again


def test_what_was_fetched_is_there_without_the_hub(server, saved, monkeypatch):
    server.hosted["me/lenet"] = {"ticket.safetensors": saved[0].read_bytes()}
    there = hub.fetch("me/lenet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.fetch("me/lenet") == there
    with pytest.raises(TicketError, match="can't be fetched"):
        hub.fetch("me/lenet@v2")


def test_without_a_hub_or_without_leave_it_is_one_line(server, saved, monkeypatch):
    _, ticket = saved
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(TicketError, match=r"^hf://me/lenet: can't be uploaded .*401"):
        hub.push(ticket, "me/lenet")
    assert not server.hosted
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        TicketError, match=r"^hf://me/lenet: can't be fetched .*OfflineModeIsEnabled"
    ):
        tickets.load_ticket("hf://me/lenet")


def test_a_strangers_file_is_checked_as_any_other(server, saved):
    """Neither a file of another kind nor a ticket whose weights were changed loads."""
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


def test_a_card_leaves_all_else_in_its_folder_alone(saved, tmp_path):
    """The folder is often the clone of a repository."""
    clone = tmp_path / "clone"
    (clone / ".git").mkdir(parents=True)
    (clone / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (clone / "notes.txt").write_text("mine")
    (clone / "README.md").write_text("old")
    assert main(["card", str(saved[0]), str(clone)]) == 2
    assert (clone / "README.md").read_text() == "old"
    for _ in range(2):
        assert main(["card", str(saved[0]), str(clone), "--force"]) == 0
    assert (clone / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"
    assert {file.name for file in clone.iterdir()} == {".git", "notes.txt", *cards.FILES}
    assert (clone / "README.md").read_text().startswith("---\n")
    (clone / "README.md").unlink()
    (clone / "config.json").write_text("old")
    changed = dataclasses.replace(saved[1], metadata={**saved[1].metadata, "result": "much"})
    with pytest.raises(TicketError, match="its metadata can't be shown"):
        cards.write_card_folder(clone, changed)
    assert (clone / "config.json").read_text() == "old" and (clone / "notes.txt").exists()


def test_a_card_says_nothing_of_the_machine_that_wrote_it(saved, tmp_path):
    """Neither does a ticket's metadata say what only the writer of the card knows."""
    bad = {**saved[1].metadata, "library_name": "other", "ticket": "/etc/passwd"}
    ticket = dataclasses.replace(saved[1], metadata=bad)
    folder = cards.write_card_folder(tmp_path / "card", ticket)
    for file in ("README.md", "config.json"):
        assert str(tmp_path) not in (folder / file).read_text()
    assert 'lj.load_ticket("ticket.safetensors")' in (folder / "README.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert (config["library_name"], config["ticket"]) == ("lottery_jax", "ticket.safetensors")
    assert main(["card", str(saved[0]), str(tmp_path / "named"), "--name=hf://me/lenet"]) == 0
    assert 'lj.load_ticket("hf://me/lenet")' in (tmp_path / "named" / "README.md").read_text()


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
