"""Damaged tickets that are fetched: from a zoo with its index, and from a hub.

A server of this process answers for both. Whatever it sends, the ticket that loads is the right one,
or there is one clear error, and nothing is written outside the cache.
"""

import argparse
import contextlib
import hashlib
import http.server
import io
import json
import os
import shutil
import threading
from unittest import mock

import yaml

from lottery_jax import config, tickets
from lottery_jax.errors import ConfigError, TicketError
from lottery_jax.runs.zoo_source import open_zoo
from lottery_jax.tickets import cards, zoo
from lottery_jax.tickets.commands import zoo as zoo_command
from tests.fuzz.cases import Damage, Portable, example, hashes
from tests.fuzz.mutations import damaged_bytes, damaged_json, damaged_text, dumps

# What a server may say in place of a name, a number or a place.
TEXTS = ["", "x", "..", ".", "../../../kept", "/tmp/kept", "a/b", "..\\x", "\x1b[2J", "é", "7", "-1",
         "9" * 30, "file:///etc/hostname", "http://127.0.0.1:9/x", "W/", '"', "a" * 5000]  # fmt: skip


def serve():
    """Start a server; return its address and what it answers by path: a status, headers and a body."""
    answers = {}

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}", answers


def whole_answer(content):
    headers = {"Content-Length": str(len(content)), "X-Repo-Commit": "a" * 40,
               "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}  # fmt: skip
    return 200, headers, content


def damaged_answer(rng, answer):
    """Return an answer with another status, header or body, and a description."""
    status, headers, body = answer
    kind = rng.choice(["status", "header", "header", "no header"])
    name = rng.choice(sorted(headers))
    if kind == "status":  # those after which a client may try again take seconds
        status = rng.choice([204, 301, 302, 307, 400, 401, 403, 404, 410, 418, 451])
        headers = headers | {"Location": rng.choice(TEXTS)}
    elif kind == "header":
        headers = headers | {name: rng.choice(TEXTS)}
    else:
        headers = {key: value for key, value in headers.items() if key != name}
    return (status, headers, body), f"{status}, {kind}: {headers}"


class Zoo:
    """The index of a zoo, and its files in a folder or on a server."""

    series = "lenet_digits/imp"

    def __init__(self, scratch):
        self.url, self.served = serve()
        self.cache = scratch / "cache"
        self.files, self.whole, entries = {}, {}, {}
        for seed, level in ((0, 0), (0, 3), (1, 0), (1, 3)):
            name = f"{self.series}/seed_{seed}/level_{level:02d}"
            ticket, path = example("lenet"), scratch / "a.safetensors"
            ticket.metadata.update(seed=seed, level=level)
            self.whole[name] = tickets.save_portable(path, ticket)
            self.files[name] = content = path.read_bytes()
            entries[name] = zoo.Entry(
                "lenet_300_100", "digits", "imp", "winning", seed, level, 0.5, 0.9876, "configs/mine.py",
                "b" * 40, len(content), hashlib.sha256(content).hexdigest(),
            )._asdict()  # fmt: skip
        configs = {"configs/mine.py": config.to_json(config.default_config())}
        self.index = {"version": zoo.VERSION, "tickets": entries, "configs": configs}

    def damage(self, rng, folder):
        files, index = dict(self.files), json.dumps(self.index, indent=1).encode()
        answers = {name: whole_answer(content) for name, content in files.items()}
        name, self.place = rng.choice(sorted(files)), rng.choice(["folder", "url"])
        kind = rng.choice(
            ["json", "json", "json", "tickets", "name", "text", "bytes", "file", "answer"]
        )
        if kind == "json":
            damaged, says = damaged_json(rng, self.index)
            index = dumps(damaged).encode("utf-8", "surrogatepass")
        elif kind == "tickets":
            damaged, says = damaged_json(rng, self.index["tickets"])
            index = dumps(self.index | {"tickets": damaged}).encode("utf-8", "surrogatepass")
        elif kind == "name":
            other = rng.choice([
                "../../kept", "/tmp/kept", f"../{name}", f"{name}/../x", f"/{name}", f"{name}\n", "",
                f"{name}\0", f"\x1b[2J{name}", f"https://{name}", name[:-1], name.upper(),
            ])  # fmt: skip
            entries = {other if n == name else n: e for n, e in self.index["tickets"].items()}
            index, says = dumps(self.index | {"tickets": entries}).encode(), other
        elif kind == "text":
            index, says = damaged_text(rng, index.decode())
        elif kind == "bytes":
            index, says = damaged_bytes(rng, index)
        elif kind == "file":
            files[name], says = damaged_bytes(rng, files[name])
            answers[name] = whole_answer(files[name])
        else:
            self.place = "url"
            answers[name], says = damaged_answer(rng, answers[name])
        for place, content in files.items():
            file = folder / "files" / f"{place}.safetensors"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (folder / "package").mkdir()
        path = folder / "package" / "index.json"
        path.write_bytes(index)
        self.served.clear()
        self.served.update({f"/{place}.safetensors": answer for place, answer in answers.items()})
        return Damage(f"{kind}, {self.place}: {says}", path)

    def load(self, path):
        """List the index, open its series as a source, and load every ticket that it names."""
        place = self.url if self.place == "url" else str(path.parent.parent / "files")
        variables = {zoo.PLACE: place, "XDG_CACHE_HOME": str(self.cache)}
        forget_index()
        try:
            with (
                mock.patch.dict(os.environ, variables),
                mock.patch.object(zoo, "folder", lambda: path.parent),
                contextlib.redirect_stdout(io.StringIO()) as shown,
            ):
                zoo_command.run(argparse.Namespace(pattern="*"))
                open_zoo(f"zoo://{self.series}")
                found = {name: tickets.load_ticket(f"zoo://{name}") for name in zoo.index()}
        except (TicketError, ConfigError) as error:
            raise TicketError(f"{path}: {error}") from error
        finally:
            forget_index()
            for file in [file for file in self.cache.rglob("*") if not file.is_dir()]:
                below = file.relative_to(self.cache / "lottery_jax" / "zoo").as_posix()
                assert file.read_bytes() == self.files[below.removesuffix(".safetensors")]
            shutil.rmtree(self.cache, ignore_errors=True)
        return found, shown.getvalue()

    def check(self, loaded, damage):
        found, shown = loaded
        assert found and all(c.isprintable() or c == "\n" for c in shown), ascii(shown)
        for name, ticket in found.items():
            assert hashes(ticket) == hashes(self.whole[name])
            assert ticket.metadata == self.whole[name].metadata


def forget_index():
    zoo.index.cache_clear()
    zoo._content.cache_clear()


class Hub(Portable):
    """A stranger's file on the Hugging Face hub, what the server says of it, and the card made of it."""

    def __init__(self, scratch):
        super().__init__(scratch)
        self.url, self.served = serve()
        self.cache = scratch / "cache"

    def damage(self, rng, folder):
        damage = super().damage(rng, folder)
        answer = whole_answer(damage.path.read_bytes())
        if rng.random() < 0.25:
            ((read, self.whole),) = rng.choices(self.originals, self.chances)
            answer, says = damaged_answer(rng, whole_answer(read()))
            damage = Damage(says, damage.path)
        self.served["/they/net/resolve/main/ticket.safetensors"] = answer
        return damage

    def load(self, path):
        address = "hf://they/net"
        try:
            with (
                mock.patch.dict(os.environ, {"HF_ENDPOINT": self.url}),
                mock.patch("huggingface_hub.constants.HF_HUB_CACHE", str(self.cache)),
            ):
                ticket = tickets.load_ticket(address)
                return ticket, cards.ticket_card(ticket.metadata, address)
        except TicketError as error:
            assert str(error).startswith((f"{address}: ", str(self.cache))), error
            raise TicketError(f"{path}: {error}") from error
        finally:
            shutil.rmtree(self.cache, ignore_errors=True)

    def check(self, loaded, damage):
        ticket, card = loaded
        super().check(ticket, damage)
        _, front, text = card.split("---\n", 2)
        keys = {"library_name", "license", "datasets", "metrics", "tags", "model-index"}
        assert yaml.safe_load(front).keys() <= keys
        assert all(c.isprintable() or c == "\n" for c in text), ascii(text)


LOADERS = {"zoo": Zoo, "hub": Hub}
