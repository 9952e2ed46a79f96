"""The zoo: its files are what the index says, and they are fetched only as that."""

import functools
import gc
import hashlib
import http.server
import importlib.util
import json
import re
import shutil
import threading
from pathlib import Path

import pytest
import yaml

import lottery_jax as lj
from lottery_jax import tickets
from lottery_jax.config import fingerprint
from lottery_jax.errors import TicketError
from lottery_jax.sweep.grid import load_config
from lottery_jax.tickets import zoo
from lottery_jax.tickets.__main__ import main
from tests.helpers import assert_same

ROOT = Path(__file__).parent.parent.parent
NAME = "lenet_digits/imp/seed_0/level_08"
# One of each way in which a ticket of digits was made.
SAMPLE = (NAME, "lenet_digits/imp/seed_1/level_00", "lenet_digits/imp/seed_4/level_12",
          "lenet_digits/imp_random/seed_2/level_06", "lenet_digits/imp_reinit/seed_3/level_08",
          "lenet_digits/snip/seed_0/level_01", "lenet_digits/grasp/seed_1/level_02",
          "lenet_digits/synflow/seed_2/level_02")  # fmt: skip


@functools.cache
def config_fingerprint(config):
    return fingerprint(load_config(str(ROOT / config), {}))


def clear():
    """Forget the index that was read."""
    zoo.index.cache_clear()
    zoo._content.cache_clear()


def measured(name):
    return float(lj.evaluate_ticket(lj.load_ticket(f"zoo://{name}")).accuracy)


def test_the_files_are_those_of_the_index():
    folder = ROOT / "zoo"
    there = {
        file.relative_to(folder).with_suffix("").as_posix()
        for file in folder.rglob("*.safetensors")
    }
    assert there == set(zoo.index())
    for name, entry in zoo.index().items():
        content = (folder / f"{name}.safetensors").read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.bytes, entry.sha256)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 12_000_000


def test_the_index_says_what_the_tickets_say():
    """Each was found by the committed config that the index names."""
    for name, entry in zoo.index().items():
        metadata = tickets.read_metadata(f"zoo://{name}")
        for key in ("data", "control", "seed", "level", "density"):
            assert metadata[key] == getattr(entry, key), (name, key)
        assert metadata["model"]["name"] == entry.network
        assert metadata["result"]["test_accuracy"] == entry.accuracy
        assert metadata["config_fingerprint"] == config_fingerprint(entry.config), name
        assert len(entry.commit) == 40 and int(entry.commit, 16)


def numbers(text):
    """The numbers of a cell: `5 to 12`, or `6, 8`, or the only one."""
    first, _, last = text.partition(" to ")
    return range(int(first), int(last) + 1) if last else [int(n) for n in text.split(",")]


def promised():
    """The tickets in the table of docs/zoo.md: a name and the percentage that is kept, as written."""
    table = (ROOT / "docs" / "zoo.md").read_text().partition("| series |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        series, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        names = re.findall(r"`(.+?)`", series)
        network = names[0].partition("/")[0]
        for levels, kept, seeds in zip(*(cell.split(";") for cell in cells), strict=True):
            kept = ["100"] if kept.startswith("all") else re.findall(r"[\d.]+", kept)
            for level, density in zip(numbers(levels), kept, strict=True):
                for name in names:
                    name = name if "/" in name else f"{network}/{name}"
                    for seed in numbers(seeds):
                        yield f"{name}/seed_{seed}/level_{level:02d}", density


def test_the_zoo_has_exactly_what_its_page_promises():
    page = list(promised())
    assert sorted(name for name, _ in page) == sorted(zoo.index())
    for name, density in page:
        decimals = len(density.partition(".")[2])
        assert f"{100 * zoo.index()[name].density:.{decimals}f}" == density, name


def test_the_zoo_has_eight_densities_five_seeds_and_rivals_at_two_densities():
    def chosen(**wanted):
        return {
            (entry.level, entry.seed)
            for entry in zoo.index().values()
            if all(getattr(entry, key) == value for key, value in wanted.items())
        }

    for data in ("digits", "fashion_mnist"):
        rivals = [{"method": "imp", "control": control} for control in ("random", "reinit")]
        rivals += [{"method": method} for method in ("snip", "grasp", "synflow")]
        winners = chosen(network="lenet_300_100", data=data, method="imp", control="winning")
        assert winners >= {(level, seed) for level in range(5, 13) for seed in range(5)}
        for rival in rivals:
            assert len({level for level, _ in chosen(data=data, **rival)}) == 2
            seeds = 3 if "control" not in rival else 5
            assert len({seed for _, seed in chosen(data=data, **rival)}) == seeds


@pytest.mark.parametrize("name", SAMPLE)
def test_a_ticket_of_digits_has_the_accuracy_that_the_index_states(name):
    assert measured(name) == zoo.index()[name].accuracy


@pytest.mark.long
@pytest.mark.parametrize("name", zoo.index())
def test_every_ticket_has_the_accuracy_that_the_index_states(name):
    """Fails without the prepared data of Fashion-MNIST: `python -m lottery_jax.datasets` makes them."""
    assert measured(name) == zoo.index()[name].accuracy


def test_each_series_has_a_card():
    for series in {name.rpartition("/seed_")[0] for name in zoo.index()}:
        text = (ROOT / "zoo" / series / "README.md").read_text()
        front = yaml.safe_load(text.split("---\n", 2)[1])
        assert (front["library_name"], front["license"]) == ("lottery_jax", "apache-2.0")
        assert front["metrics"] == ["accuracy"] and front["datasets"] and front["tags"]
        stated = [model["results"][0]["metrics"][0]["value"] for model in front["model-index"]]
        levels = {}
        for name, entry in zoo.index().items():
            if name.startswith(f"{series}/"):
                levels.setdefault(entry.level, []).append(entry.accuracy)
        means = [sum(values) / len(values) for _, values in sorted(levels.items())]
        assert stated == pytest.approx(means)


def test_a_ticket_has_a_card_of_its_own(tmp_path):
    """The command writes it, beside the very file that the index lists."""
    folder, entry = tmp_path / "card", zoo.index()[NAME]
    assert main(["card", f"zoo://{NAME}", str(folder), f"--name=zoo://{NAME}"]) == 0
    content = (folder / "ticket.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry.sha256
    text = (folder / "README.md").read_text()
    (model,) = yaml.safe_load(text.split("---\n", 2)[1])["model-index"]
    assert model["results"][0]["metrics"] == [{"type": "accuracy", "value": entry.accuracy}]
    assert f'lj.load_ticket("zoo://{NAME}")' in text
    config = json.loads((folder / "config.json").read_text())
    assert config["config_fingerprint"] == config_fingerprint(entry.config)


def test_a_name_that_is_not_there_is_one_line(capsys):
    with pytest.raises(TicketError, match="no such ticket; did you mean zoo://lenet_digits/imp/"):
        lj.load_ticket("zoo://lenet_digit/imp/seed_0/level_08")
    with pytest.raises(TicketError, match="no such ticket"):
        lj.load_ticket(f"zoo://../zoo/{NAME}")
    assert main(["show", "zoo://nothing"]) == 2
    assert "'python -m lottery_jax.tickets zoo' lists all" in capsys.readouterr().err


def test_the_command_lists_the_zoo(capsys):
    assert main(["zoo"]) == 0
    listed = capsys.readouterr().out
    assert all(f"zoo://{name} " in listed for name in zoo.index())
    assert (
        main(["zoo", "lenet_digits/imp/seed_0"]) == main(["zoo", "lenet_digits/imp/seed_0/*"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert sum("zoo://" in line for line in lines) == 18
    assert main(["zoo", "zoo://lenet_digits/imp/seed_0/"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[: len(lines) // 2]
    assert main(["zoo", "lenet_mnist"]) == 2
    assert main(["verify", f"zoo://{NAME}"]) == 0
    assert capsys.readouterr().out == f"ok   zoo://{NAME}\n"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of a folder that prints nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed package, which has the index alone; returns a copy of the files and the cache."""
    package, files = tmp_path / "package", tmp_path / "files"
    package.mkdir()
    shutil.copy(ROOT / "zoo" / "index.json", package)
    (files / NAME).parent.mkdir(parents=True)
    shutil.copy(ROOT / "zoo" / f"{NAME}.safetensors", (files / NAME).parent)
    monkeypatch.setattr(zoo, "folder", lambda: package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(zoo.PLACE, raising=False)
    return files, tmp_path / "cache" / "lottery_jax" / "zoo" / f"{NAME}.safetensors"


def test_an_installed_package_says_where_files_can_come_from(installed, monkeypatch):
    with pytest.raises(TicketError, match=r"are not installed; set LOTTERY_JAX_ZOO to the folder"):
        lj.load_ticket(f"zoo://{NAME}")
    monkeypatch.setenv(zoo.PLACE, "/nowhere")
    with pytest.raises(TicketError, match=r"can't be fetched from /nowhere .*No such file"):
        lj.load_ticket(f"zoo://{NAME}")


def test_files_of_a_folder_are_read_where_they_are(installed, monkeypatch):
    files, cached = installed
    monkeypatch.setenv(zoo.PLACE, str(files))
    ticket = lj.load_ticket(f"zoo://{NAME}")
    assert_same(ticket.trained, lj.load_ticket(ROOT / "zoo" / f"{NAME}.safetensors").trained)
    assert zoo.fetch(NAME) == files / f"{NAME}.safetensors" and not cached.exists()
    shutil.rmtree(files)
    with pytest.raises(TicketError, match=rf"can't be fetched from {files}.*No such file"):
        lj.load_ticket(f"zoo://{NAME}")


def test_without_a_home_directory_a_folder_will_do(installed, monkeypatch, capsys):
    files, _ = installed

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setenv(zoo.PLACE, "http://127.0.0.1:9")
    assert main(["show", f"zoo://{NAME}"]) == 2
    error = capsys.readouterr().err
    assert "can't be kept (Could not determine home" in error and error.count("\n") == 1
    assert "set XDG_CACHE_HOME to a folder for them, or LOTTERY_JAX_ZOO" in error
    monkeypatch.setenv(zoo.PLACE, str(files))
    lj.load_ticket(f"zoo://{NAME}")
    monkeypatch.setattr(zoo, "folder", lambda: ROOT / "zoo")  # a checkout has the files
    monkeypatch.delenv(zoo.PLACE)
    lj.load_ticket(f"zoo://{NAME}")


@pytest.fixture
def serving(installed):
    """A server of the files; its address begins what the tests fetch."""
    handler = functools.partial(Quiet, directory=str(installed[0]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_another_file_is_refused_and_not_kept(installed, serving, monkeypatch):
    files, cached = installed
    file = files / f"{NAME}.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-1], whole + b"x", b"\0" * len(whole)):
        file.write_bytes(content)
        for place in (str(files), f"http://127.0.0.1:{serving.server_port}"):
            monkeypatch.setenv(zoo.PLACE, place)
            with pytest.raises(TicketError, match=r"is not the file that the index .* SHA-256 dif"):
                lj.load_ticket(f"zoo://{NAME}")
    assert not cached.exists()
    file.write_bytes(whole)
    lj.load_ticket(f"zoo://{NAME}")
    assert cached.read_bytes() == whole and list(cached.parent.iterdir()) == [cached]


def test_files_are_fetched_from_a_url_once(installed, serving, monkeypatch):
    files, cached = installed
    address = f"http://127.0.0.1:{serving.server_port}"
    monkeypatch.setenv(zoo.PLACE, f"{address}/")
    lj.load_ticket(f"zoo://{NAME}")
    assert hashlib.sha256(cached.read_bytes()).hexdigest() == zoo.index()[NAME].sha256
    with pytest.raises(
        TicketError, match=rf"can't be fetched from {address}/ \(.*404.*[Nn]ot [Ff]ound"
    ):
        lj.load_ticket("zoo://lenet_digits/imp/seed_0/level_07")
    gc.collect()  # a connection left open would warn here, and fail this test, not another
    shutil.rmtree(files)
    assert lj.load_ticket(f"zoo://{NAME}").density < 0.03  # the one in the cache
    cached.write_bytes(b"damaged")
    with pytest.raises(TicketError, match="can't be fetched"):
        lj.load_ticket(f"zoo://{NAME}")
    serving.shutdown()
    serving.server_close()
    with pytest.raises(TicketError, match=r"can't be fetched from .*refused"):
        lj.load_ticket("zoo://lenet_digits/imp/seed_0/level_07")


def test_an_index_that_is_not_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "folder", lambda: tmp_path)
    for text in (
        "{",
        "[]",
        '{"version": 2, "tickets": {}}',
        '{"version": 1, "tickets": {"a": {}}}',
        '{"version": 1, "tickets": []}',
        '{"version": NaN, "tickets": {}}',
        "[" * 100_000,
    ):
        (tmp_path / "index.json").write_text(text)
        clear()
        with pytest.raises(TicketError, match="the index of the zoo can't be read"):
            zoo.index()
    clear()


@pytest.mark.parametrize(
    "name, change",
    [
        ("../../victim", {}),
        (f"../{NAME}", {}),
        ("/tmp/seed_0/level_08", {}),
        ("lenet_digits/imp/seed_0/level_08\n", {}),
        ("lenet_digits/imp/seed_1/level_08", {}),
        (NAME, {"level": 9}),
        (NAME, {"bytes": 10**30}),
        (NAME, {"density": 1.5}),
        (NAME, {"accuracy": "0.98"}),
        (NAME, {"seed": False}),
        (NAME, {"config": "\x1b[2J"}),
        (NAME, {"more": 1}),
    ],
)
def test_an_entry_that_is_not_one_is_refused(installed, monkeypatch, name, change):
    """A name becomes a path in the cache; other values are shown and added up."""
    values = {**zoo.index()[NAME]._asdict(), **change}
    content = {"version": zoo.VERSION, "tickets": {name: values}}
    (zoo.folder() / "index.json").write_text(json.dumps(content))
    clear()
    try:
        with pytest.raises(TicketError, match=r"index\.json: the index of the zoo can't be read"):
            zoo.fetch(name)
    finally:
        clear()
    assert not (zoo.folder().parent / "cache").exists()


@pytest.fixture
def build(tmp_path, monkeypatch):
    """zoo/build.py, for a zoo of SNIP's tickets of digits alone in `tmp_path / "zoo"`."""
    spec = importlib.util.spec_from_file_location("build_zoo", ROOT / "zoo" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "zoo"
    monkeypatch.setattr(module, "ZOO", folder)
    shutil.copytree(ROOT / "zoo" / "lenet_digits" / "snip", folder / "lenet_digits" / "snip")
    kept = {
        name: entry for name, entry in zoo.index().items() if name.startswith("lenet_digits/snip/")
    }
    (folder / "index.json").write_text(module.index_text(kept))
    return module, folder, kept


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_building_it_again_from_itself_changes_nothing(build):
    """Files, cards and index are a function of the tickets."""
    module, folder, kept = build
    before = contents(folder)
    (folder / "lenet_digits" / "of_before.safetensors").write_bytes(b"")
    assert module.build([]) == kept
    assert contents(folder) == before
    assert json.loads(before[folder / "index.json"])["version"] == zoo.VERSION


def test_a_run_that_lacks_tickets_of_the_zoo_removes_none(build, tmp_path):
    """Its own tickets replace those of the zoo; here it has one seed of three."""
    module, folder, kept = build
    before = contents(folder)
    config, run = "configs/zoo.py:digits_snip", tmp_path / "run"
    for level in (1, 2):
        name = f"seed_1/level_{level:02d}"
        ticket = lj.load_ticket(f"zoo://lenet_digits/snip/{name}")
        lj.save_ticket(run / name / "ticket", ticket)
    record = {"fingerprint": config_fingerprint(config), "git_commit": "b" * 40}
    (run / "config.json").write_text(json.dumps(record))
    built = module.build([run])
    assert built == {
        name: entry._replace(commit="b" * 40, config=config) if entry.seed == 1 else entry
        for name, entry in kept.items()
    }
    assert set(contents(folder)) == set(before)
    assert {f: c for f, c in contents(folder).items() if f.suffix == ".safetensors"} == {
        f: c for f, c in before.items() if f.suffix == ".safetensors"
    }


def test_a_build_that_ends_early_leaves_no_ticket_without_its_file(build, monkeypatch):
    module, folder, kept = build

    def fail(path, text):
        raise OSError("no space")

    monkeypatch.setattr(module, "SERIES", ())  # which removes all tickets
    monkeypatch.setattr(module, "write_text", fail)
    with pytest.raises(OSError, match="no space"):
        module.build([])
    assert all((folder / f"{name}.safetensors").is_file() for name in kept)
