"""report.html: what it says, that strangers' names are text in it, and how it behaves in a browser."""

import base64
import hashlib
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lottery_jax import config as configuration
from lottery_jax import report
from lottery_jax.curve import CURVE_COLUMNS, WINNING
from lottery_jax.report.claims import ForestRow
from lottery_jax.report.claims_page import write_claims_page
from lottery_jax.report.page import commands, page_html
from tests.report import chromium

ASSETS = Path(report.__file__).parent / "assets"
HOSTILE = "</script><script>ran=1</script><img src=x onerror='ran=1'>\"'&\u2028"


def make_run(path, *, seeds=2, levels=2, controls=("random",), epochs=3, layers=2, name="lenet"):
    """Write the files of a run by hand, tickets included."""
    path.mkdir(parents=True)
    rows, lines = [",".join(CURVE_COLUMNS)], []
    names = [f"{name}_{i}" for i in range(layers)]
    for seed in range(seeds):
        for level in range(levels + 1):
            for control in (WINNING, *(controls if level else ())):
                density, accuracy = 0.5**level, 0.9 - 0.01 * level - 0.001 * seed
                quoted = '"' + control.replace('"', '""') + '"'
                end = f"1000,{round(1000 * density)},{density},{accuracy},0.3,0.1,{epochs},1.5"
                rows.append(f"{seed},{level},{quoted},{end}")
                trial = {"seed": seed, "level": level, "control": control}
                lines += [
                    json.dumps(trial | {"epoch": e, "step": 10 * e, "train_loss": 1 / e,
                                        "test_loss": 1.12345678 / e, "test_accuracy": 1 - 0.7 / e})
                    for e in range(1, epochs + 1)
                ]  # fmt: skip
                place = "ticket" if control == WINNING else control
                if Path(place).name == place != "..":
                    write_ticket(path / f"seed_{seed}/level_{level:02d}" / place, trial, names)
    (path / "curve.csv").write_text("\n".join(rows) + "\n")
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    config = {
        "model": {"name": name}, "data": {"name": name}, "optimizer": {"name": "sgd"},
        "ladder": {"levels": levels}, "controls": list(controls), "control_levels": [],
        "seeds": list(range(seeds)),
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps({"config": config}))
    return path


def write_ticket(place, trial, layers):
    place.mkdir(parents=True)
    kept = max(0, 500 - 100 * trial["level"])
    metadata = {
        **trial, "model": {"name": layers[0]}, "num_classes": 10, "layer_order": layers,
        "layers": {name: [kept, 500] for name in layers}, "density": kept / 500,
        "sha256": {"mask": "ab" * 32, "params": "cd" * 32}, "method": {"draw": "iterative"},
    }  # fmt: skip
    (place / "metadata.json").write_text(json.dumps(metadata))


def page(path, **more):
    run = report.read_run(path)
    return page_html([run], path / "report", run.title, **more)


def data_of(html):
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


class Elements(HTMLParser):
    """All tags with their attributes, and the texts of scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.inline = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        is_code = tag in ("script", "style") and attributes.get("type") != "application/json"
        if is_code and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize(
    "name, sha256",
    [
        ("uplot.min.js", "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"),
        ("uplot.min.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
        ("LICENSE.uplot", "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd"),
    ],
)
def test_the_library_is_what_its_authors_published(name, sha256):
    assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == sha256


def test_trials_have_numbers_tickets_and_curves(tmp_path):
    data = data_of(page(make_run(tmp_path / "run")))
    assert len(data["trials"]) == 2 * (1 + 2 + 2)
    (trial,) = (
        t for t in data["trials"] if (t["seed"], t["level"], t["control"]) == (1, 2, "random")
    )
    assert (trial["left"], trial["metric"], trial["seconds"]) == (25, 87.9, 1.5)
    assert trial["url"] == "../seed_1/level_02/random"
    assert trial["curve"] == {
        "step": [10, 20, 30], "train_loss": [1, 0.5, 0.33333],
        "test_loss": [1.1235, 0.56173, 0.37449], "metric": [30, 65, 76.667],
    }  # fmt: skip
    layers = {data["texts"][int(i)]: counts for i, counts in trial["layers"].items()}
    assert layers == {"lenet_0": [300, 500], "lenet_1": [300, 500]}
    assert data["texts"][trial["card"]["method"]] == "draw iterative"


def test_the_policy_allows_the_own_scripts_and_styles_alone(tmp_path):
    found = Elements(page(make_run(tmp_path / "run")))
    (policy,) = (a["content"] for _, a in found.tags if a.get("http-equiv"))
    digests = (hashlib.sha256(text.encode()).digest() for text in found.inline)
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    styles, scripts = " ".join(hashes[:2]), " ".join(hashes[2:])
    assert len(hashes) == 4
    assert policy == (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; "
        "base-uri 'none'; form-action 'none'"
    )


def test_strangers_names_are_text(tmp_path):
    clean = Elements(page(make_run(tmp_path / "clean")))
    run = make_run(tmp_path / "javascript:ran=1" / "<img src=x onerror=ran=1>", name=HOSTILE)
    found = Elements(page(run, notes=[HOSTILE]))
    tags = [tag for tag, _ in found.tags]
    assert "img" not in tags and tags.count("script") == 3
    assert set(tags) == {tag for tag, _ in clean.tags}
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    links = [a["href"] for _, a in found.tags if a.get("href")]
    assert links == ["..", "../curve.csv", "../metrics.jsonl"]
    assert data_of(page(run))["texts"][0] == f"name {HOSTILE}_0"


def test_a_control_is_no_way_out_of_the_run(tmp_path):
    write_ticket(tmp_path / "private", {"level": 0}, ["secret_layer"])
    run = make_run(tmp_path / "run", controls=("../../../private", ".."))
    assert "secret_layer" not in page(run)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_warnings_say_what_went_wrong(tmp_path):
    html = page(make_run(tmp_path / "good"))
    assert 'class="warnings"' not in html
    run = make_run(tmp_path / "bad", levels=5)
    text = (run / "curve.csv").read_text()
    (run / "curve.csv").write_text(text.replace("0.86,0.3", "0.1,0.3", 1))  # seed 0, level 4
    shutil.rmtree(run / "seed_1/level_05")
    rows = [
        row for row in (run / "curve.csv").read_text().splitlines() if not row.startswith("1,5")
    ]
    (run / "curve.csv").write_text("\n".join(rows) + "\n")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            '{"seed": 0, "level": 1, "control": "winning", "step": 40, "train_loss": NaN}\n{"h'
        )
    (run / "seed_0/level_01/ticket/metadata.json").write_text("[")
    edit(run / "config.json", resumed_with=[{"jax": "0.11.0"}])
    config = json.loads((run / "config.json").read_text())["config"]
    edit(run / "config.json", config=config | {"seeds": [0, 1, 2]})
    html = page(run)
    for text in (
        "No weight is left: seed 0, level 5, winning: lenet_0, lenet_1; seed 0, level 5, random",
        "No better than chance: seed 0, level 4, winning: 10 %",
        "Not finite: seed 0, level 1, winning, step 40 (train_loss)",
        "Not complete: 20 of 33 trials are there",
        "The metadata of a ticket can&#x27;t be read: seed 0, level 1, winning",
        "Resumed with other versions: jax 0.11.0",
    ):
        assert f"<li>{text}" in html, text


def test_the_commands_repeat_the_config(tmp_path, tiny_config, monkeypatch):
    run = make_run(tmp_path / "it's a run")
    config = tiny_config(seeds=(3, 4))
    edit(run / "config.json", config=configuration.to_json(config))
    text = commands(report.read_run(run))
    found = {}
    exec(text.split("<<'END'\n")[1].split("\nEND")[0], found)
    assert found["get_config"]().to_json() == config.to_json()
    assert "python -m lottery_jax.report '" in text and "it'\"'\"'s a run'" in text


def test_a_page_of_several_runs_names_them(tmp_path):
    runs = [report.read_run(make_run(tmp_path / n, name=n)) for n in ("lenet", "conv2")]
    data = data_of(page_html(runs, tmp_path, "two"))
    assert [run["name"] for run in data["runs"]] == ["lenet on lenet, SGD", "Conv-2 on conv2, SGD"]
    assert {t["url"].split("/")[0] for t in data["trials"]} == {"lenet", "conv2"}


@pytest.mark.slow
def test_a_large_run_is_less_than_6_mb(tmp_path):
    size = {"seeds": 6, "levels": 30, "controls": ("random", "reinit"), "epochs": 160, "layers": 17}
    html = page(make_run(tmp_path / "run", **size, name="conv_of_a_long_name"))
    assert len(data_of(html)["trials"][-1]["curve"]["step"]) == 160
    assert len(html.encode()) < 6e6


LEGEND = "#curve .u-series:nth-child(3)"
COLUMN = "[...document.querySelectorAll('#trials tbody tr')].map(r => +r.cells[4].textContent)"


@pytest.mark.long
@pytest.mark.skipif(chromium.PATH is None, reason="Chromium is not installed (apt: chromium)")
def test_a_browser_shows_the_page_and_runs_nothing_of_strangers(tmp_path):
    run = make_run(tmp_path / "<img src=x onerror=ran=1>", controls=("random", HOSTILE.replace("/", "")),
                   name=HOSTILE)  # fmt: skip
    (run / "report").mkdir()
    (run / "report" / "report.html").write_text(page(run, notes=[HOSTILE]))
    with chromium.browser(tmp_path) as tab:
        tab.open(run / "report" / "report.html")
        assert tab.run("document.querySelectorAll('.figure canvas').length") == 3
        assert HOSTILE.replace("\u2028", "") in tab.run("document.body.innerText").replace(
            "\u2028", ""
        )

        assert tab.run(f"document.querySelector('{LEGEND}').className").split() == ["u-series"]
        tab.run(f"document.querySelector('{LEGEND} th').click()")
        assert "u-off" in tab.run(f"document.querySelector('{LEGEND}').className")

        head = "document.querySelector('#trials th[data-key=metric] button')"
        tab.run(f"{head}.click()")
        up = tab.run(COLUMN)
        tab.run(f"{head}.click()")
        assert tab.run(COLUMN) == up[::-1] == sorted(up, reverse=True) and len(set(up)) > 1

        choose = "((id, value) => { const s = document.getElementById(id); s.value = value;"
        choose += " s.dispatchEvent(new Event('change', {bubbles: true})); })"
        tab.run(f"{choose}('seed', '1')")
        tab.run(f"{choose}('control', 'random')")
        assert len(tab.run(COLUMN)) == 3
        tab.run("document.querySelector('#trials tbody button').click()")
        assert "_0" in tab.run("document.querySelector('dialog[open]').innerText")
        tab.run("document.getElementById('logy').click()")

        tab.open(run / "report" / "report.html", width=390)
        assert tab.run("document.documentElement.scrollWidth") <= 390
        assert tab.run("typeof ran") == "undefined"
        assert tab.run("document.images.length") == 0
        assert tab.errors == []
        assert all(url.startswith("file:") and "report.html" in url for url in tab.requests)


FOREST = [
    (["1. a", "5 %"], ForestRow("a", "points", 0.5, -0.25, 1.25, 1.0, 0.0, math.inf, "holds")),
    (["10. b", "5 %"], ForestRow("b", "points", -2.0, -2.5, -1.5, None, 0.0, math.inf, "fails")),
    ([HOSTILE, ""], ForestRow("c", "ratio", math.nan, -math.inf, math.inf, None, 0.9, 1.1, HOSTILE)),
]  # fmt: skip


def test_the_page_of_claims_draws_each_interval_on_the_scale_of_its_unit(tmp_path):
    html = write_claims_page(
        tmp_path / "claims.html", "Claims", ["claim", "weights"], FOREST
    ).read_text()
    found = Elements(html)
    assert {tag for tag, _ in found.tags}.isdisjoint({"img"}) and html.count("<script>") == 1
    # From -2.5 to 1.25 with 5 % beside them: 0.1875 each.
    means = [float(a["cx"]) for tag, a in found.tags if tag == "circle"]
    assert means == pytest.approx([180 * (n + 2.6875) / 4.125 for n in (0.5, -2.0)], abs=0.01)
    ranges = [(float(a["x"]), float(a["width"])) for tag, a in found.tags if tag == "rect"]
    assert ranges[0] == pytest.approx((180 * 2.6875 / 4.125, 180 * 1.4375 / 4.125), abs=0.01)
    assert "0.5 (-0.25 to 1.25) points" in html


@pytest.mark.long
@pytest.mark.skipif(chromium.PATH is None, reason="Chromium is not installed (apt: chromium)")
def test_a_browser_sorts_and_filters_the_page_of_claims(tmp_path):
    path = write_claims_page(tmp_path / "claims.html", "Claims", ["claim", "weights"], FOREST)
    rows = "document.querySelectorAll('#claims tbody tr:not([hidden])')"
    first = f"[...{rows}].map(r => r.cells[0].innerText)"
    with chromium.browser(tmp_path) as tab:
        tab.open(path)
        tab.run("document.querySelectorAll('#claims th button')[2].click()")
        assert tab.run(first)[:2] == ["10. b", "1. a"]
        tab.run("document.querySelectorAll('#claims th button')[0].click()")
        assert [text for text in tab.run(first) if text[0] == "1"] == ["1. a", "10. b"]
        choose = "s => { s.value = 'fails'; s.dispatchEvent(new Event('change')); }"
        tab.run(f"({choose})(document.getElementById('outcome'))")
        assert tab.run(first) == ["10. b"]
        assert tab.run("typeof ran") == "undefined" and tab.errors == []
