"""Runs, matrices and sweeps as objects, and how they and tickets show themselves."""

import dataclasses
import io
import json
import pickle
import shutil
import sys

import jax
import numpy as np
import pytest
from IPython.core.displaypub import DisplayPublisher
from IPython.core.formatters import DisplayFormatter
from IPython.core.interactiveshell import InteractiveShell
from rich.console import Console

import lottery_jax as lj
from lottery_jax.curve import CURVE_COLUMNS
from lottery_jax.errors import ConfigError, EnvironmentFault, TicketError
from lottery_jax.runs import record
from lottery_jax.runs.display import Display
from lottery_jax.sweep import grid, plan
from lottery_jax.system import notebook
from tests.helpers import assert_same, make_tiny_config, quiet_console, synthetic_ticket

PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a directory of a run, a run of two seeds with a control, the rows that run_ladder returned)."""
    folder = tmp_path_factory.mktemp("opened") / "digits"
    config = make_tiny_config(seeds=(0, 1), controls=("random",))
    config.model.width = 0.1
    return folder, lj.run_ladder(config, folder, console=quiet_console(), devices=jax.devices()[:1])


def as_matrix(trained, tmp_path):
    """A matrix whose native run is there and whose transfer has not begun."""
    folder = tmp_path / "matrix"
    shutil.copytree(trained[0], folder / "digits")
    config = make_tiny_config()
    config.transfer.sources, config.transfer.targets = ("digits",), ("digits", "digits_b")
    record.record_config(folder, config)
    return folder


def as_sweep(trained, tmp_path):
    """A sweep of two runs, of which one is there."""
    folder = tmp_path / "sweep"
    names = {"first": 2, "second": 3}
    runs = [
        grid.PlannedRun(name, make_tiny_config(**{"train.epochs": n})) for name, n in names.items()
    ]
    plan.write(plan.Sweep(folder, grid.Plan(tuple(runs), {}), 1, {}))
    shutil.copytree(trained[0], folder / "first")
    return folder


def shown(value, kind):
    return DisplayFormatter().format(value)[0][kind]


def test_a_run_is_what_run_ladder_returned(trained):
    folder, rows = trained
    run = lj.open_run(folder)
    assert run.rows == rows and len(rows) == 10
    assert run.config.seeds == (0, 1) and run.config.train.epochs == 2
    table = run.to_pandas()
    assert list(table.columns) == list(CURVE_COLUMNS) and len(table) == len(rows)
    assert table.test_accuracy.tolist() == [row["test_accuracy"] for row in rows]


def test_tickets_are_found_by_seed_level_and_control(trained):
    folder, rows = trained
    run = lj.open_run(str(folder))
    for found, path in [
        (run.ticket(), "seed_0/level_02/ticket"),
        (run.ticket(seed=1), "seed_1/level_02/ticket"),
        (run.ticket(seed=1, level=0), "seed_1/level_00/ticket"),
        (run.ticket(1, 1, "random"), "seed_1/level_01/random"),
    ]:
        expected = lj.load_ticket(folder / path)
        assert_same(found.params, expected.params)
        assert found.metadata == expected.metadata
    names = [
        (t.metadata["seed"], t.metadata["level"], t.metadata["control"]) for t in run.tickets()
    ]
    assert names == [(row["seed"], row["level"], row["control"]) for row in rows]
    assert sum(1 for _ in run.tickets("random")) == 4
    with pytest.raises(TicketError, match="no complete ticket of seed 7.*seed 0, 1; level 0, 1, 2"):
        run.ticket(seed=7)


def test_a_run_that_is_going_on_has_what_is_complete(trained, tmp_path):
    folder, rows = trained
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "seed_1")
    run = lj.open_run(tmp_path / "run")
    assert run.rows == [row for row in rows if row["seed"] == 0]
    assert repr(run).startswith("Run(lenet_300_100 on digits: 5 of 10 tickets, ")
    shutil.rmtree(tmp_path / "run" / "seed_0")
    (tmp_path / "run" / "curve.csv").unlink()
    assert run.rows == [] and list(run.to_pandas().columns) == list(CURVE_COLUMNS)
    assert "0 of 10 tickets" in shown(run, "text/html")
    with pytest.raises(ConfigError, match="can be reported on"):
        run.plot()


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_figures_show_themselves_and_can_be_saved(trained, tmp_path):
    run = lj.open_run(trained[0])
    figure = run.plot()
    assert shown(figure, "image/png").startswith(PNG)
    figure.savefig(tmp_path / "curve.pdf")
    again = pickle.loads(pickle.dumps(figure))
    (legend,) = [axes.get_legend() for axes in again.axes if axes.get_legend()]
    assert [t.get_text() for t in legend.get_texts()][:2] == ["winning ticket", "random ticket"]
    assert set(titles(again)) >= {"all series", "winning ticket less each of the others"}
    both = run.plot(lj.open_run(as_matrix(trained, tmp_path) / "digits"))
    assert set(titles(both)) >= {"all series", "tickets less their dense network"}


def test_a_table_of_a_run_has_the_means_of_its_rows(trained):
    folder, rows = trained
    html = shown(lj.open_run(folder), "text/html")
    last = [100 * r["test_accuracy"] for r in rows if r["level"] == 2 and r["control"] == "random"]
    assert f"<td>{np.mean(last):.2f} ± {np.std(last, ddof=1):.2f}</td>" in html
    assert html.count("<tr>") == 4


def test_a_matrix_has_the_rows_of_its_runs(trained, tmp_path):
    matrix = lj.open_run(as_matrix(trained, tmp_path))
    assert matrix.rows == [{"source": "digits", "target": "digits", **row} for row in trained[1]]
    assert list(matrix.runs) == ["digits"] and matrix.config.transfer.sources == ("digits",)
    assert repr(matrix).startswith("Matrix(1 of 3 runs begun, ")
    assert list(matrix.to_pandas().columns)[:3] == ["source", "target", "seed"]
    assert matrix.ticket("digits", seed=1).metadata["seed"] == 1
    assert sum(1 for _ in matrix.tickets("winning")) == 6
    assert {"trained on digits", "trained on digits b"} <= set(titles(matrix.plot()))
    assert shown(matrix.heat_map(), "image/png").startswith(PNG)
    with pytest.raises(ConfigError, match="has no run 'digits_to_digits_b'; runs: digits"):
        matrix.ticket("digits_to_digits_b")


def test_a_sweep_has_the_rows_of_its_runs_and_the_keys_they_differ_in(trained, tmp_path):
    sweep = lj.open_run(as_sweep(trained, tmp_path))
    assert sweep.rows == [{"run": "first", "train.epochs": 2, **row} for row in trained[1]]
    assert list(sweep.runs) == ["first"] and sweep.config["second"].train.epochs == 3
    assert repr(sweep).startswith("Sweep(1 of 2 runs begun, ")
    assert sweep.to_pandas()["train.epochs"].unique().tolist() == [2]
    assert sweep.ticket("first", level=1).metadata["level"] == 1
    assert titles(sweep.plot())[0] == "all series"
    assert "10 of 10 tickets" in shown(sweep, "text/html")
    shutil.rmtree(tmp_path / "sweep" / "first")
    empty = lj.open_run(tmp_path / "sweep")
    assert list(empty.to_pandas().columns)[:3] == ["run", "train.epochs", "seed"]
    with pytest.raises(ConfigError, match="no run to draw.*none has begun"):
        empty.plot()


@pytest.mark.parametrize("content", [None, "", "{", '{"config": []}', '{"config": {"a": 1}}'])
def test_a_directory_that_is_no_run_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=str(tmp_path)) as error:
        lj.open_run(tmp_path)
    assert "\n" not in str(error.value)


def test_without_pandas_one_line_says_what_to_install(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(EnvironmentFault, match="pip install pandas"):
        lj.open_run(trained[0]).to_pandas()


def test_a_ticket_is_one_line(trained):
    row = trained[1][-2]
    ticket = lj.open_run(trained[0]).ticket(1, 2)
    assert repr(ticket) == str(ticket)
    assert repr(ticket) == (
        "Ticket(lenet_300_100 on digits, seed 1, level 2, winning: "
        f"{100 * row['density']:.2f} % of {row['weights_total']:,} weights, "
        f"accuracy {100 * row['test_accuracy']:.1f} %)"
    )
    assert repr(dataclasses.replace(ticket, metadata={})).startswith("Ticket(a network: ")
    other = {**ticket.metadata, "result": {"test_mse": 0.25}}
    assert repr(dataclasses.replace(ticket, metadata=other)).endswith("weights, mse 0.25)")
    assert "can't be counted" in repr(dataclasses.replace(ticket, mask=None))


def test_a_ticket_is_a_table_with_a_bar_for_each_layer(trained):
    ticket = lj.open_run(trained[0]).ticket(1, 2)
    html = shown(ticket, "text/html")
    places = []
    for name, (kept, total) in lj.masks.layer_counts(ticket.mask).items():
        row = html[html.index(f">{name}<") :]
        assert f"width:{100 * kept / total:.3f}%" in row.partition("</tr>")[0]
        assert f"{kept:,} of {total:,}" in row.partition("</tr>")[0]
        places.append(html.index(f">{name}<"))
    assert places == sorted(places) and len(html) < 3000


def test_a_strangers_metadata_is_text():
    script = "<script>alert('&')</script>"
    ticket = synthetic_ticket("lenet_300_100", (8, 8, 1), 0.1)
    hostile = dict.fromkeys(("data", "seed", "level", "control", "layer_order"), script)
    hostile |= {"model": {"name": f"given:{script}"}, "result": {f"test_{script}": 0.5}}
    mask = {script: ticket.mask["head"], "\x1b[2J" + 10_000 * "x": ticket.mask["dense1"]}
    for each in (
        dataclasses.replace(ticket, metadata=hostile),
        dataclasses.replace(
            ticket, mask=mask, metadata=hostile | {"result": {"test_accuracy": script}}
        ),
        dataclasses.replace(ticket, metadata={"model": 7, "data": 10**6 * "a", "result": [script]}),
    ):
        html = each._repr_html_()
        assert "<script" not in html and "\x1b" not in html + repr(each)
        assert len(html) < 4000 and len(repr(each)) < 400 and "\n" not in repr(each)
    many = {f"layer{i}": ticket.mask["head"] for i in range(1000)}
    assert "and 880 more layers" in dataclasses.replace(ticket, mask=many)._repr_html_()


class Notebook(InteractiveShell):
    """A shell that has a kernel, and keeps what it publishes."""

    kernel = object()


@pytest.fixture
def published(monkeypatch):
    """What a notebook is sent, in order: (text, whether it replaces what was there)."""
    sent = []

    class Publisher(DisplayPublisher):
        def publish(self, data, metadata=None, *, transient=None, update=False, **_):
            assert transient["display_id"]
            sent.append((data["text/plain"], update))

    shell = Notebook()
    shell.display_pub = Publisher()
    monkeypatch.setattr(notebook, "shell", lambda: shell)
    monkeypatch.setattr(InteractiveShell, "_instance", shell)
    monkeypatch.setattr(InteractiveShell, "initialized", classmethod(lambda cls: True))
    monkeypatch.setattr(InteractiveShell, "instance", classmethod(lambda cls: shell))
    return sent


def test_a_notebook_gets_one_line_that_is_updated_now_and_then(published, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(notebook.time, "monotonic", lambda: now[0])
    with Display(1000, Console(force_jupyter=False)) as bar:
        bar.describe("seed 0, level 0")
        for _ in range(1000):
            now[0] += 0.01
            bar.epoch_done("97.1%", 1234.0)
    first, *others = published
    assert first == ("seed 0, level 0  0/1000 epochs  compiling", False)
    assert all(update for _, update in others) and 30 <= len(others) <= 41
    assert others[20][0].startswith("seed 0, level 0  ") and "97.1%" in others[20][0]
    assert others[20][0].endswith("5 s left")
    assert others[-1][0] == "1000/1000 epochs"


def test_output_that_goes_elsewhere_leaves_the_notebook_alone(published):
    for console in (Console(quiet=True), Console(file=io.StringIO())):
        with Display(2, console) as bar:
            bar.describe("seed 0, level 0")
            bar.epoch_done("97.1%", 1234.0)
    assert published == []


@notebook.short_interrupt("all is saved")
def interrupted(error):
    raise error


def test_ctrl_c_is_one_line_in_ipython_and_elsewhere_what_it_was(published, capsys):
    with pytest.raises(KeyboardInterrupt) as stopped:
        interrupted(KeyboardInterrupt())
    notebook.shell().showtraceback((stopped.type, stopped.value, stopped.tb))
    assert capsys.readouterr().out.strip() == "KeyboardInterrupt: all is saved"
    with pytest.raises(ValueError, match="no interrupt"):
        interrupted(ValueError("no interrupt"))


def test_ctrl_c_in_a_script_is_a_plain_interrupt(monkeypatch):
    monkeypatch.setattr(notebook, "shell", lambda: None)
    interrupt = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as stopped:
        interrupted(interrupt)
    assert stopped.value is interrupt


def test_config_json_of_a_run_is_not_touched(trained):
    before = (trained[0] / "config.json").read_bytes(), (trained[0] / "curve.csv").read_bytes()
    run = lj.open_run(trained[0])
    _ = run.rows, run.plot(), repr(run), run._repr_html_()
    assert before == (
        (trained[0] / "config.json").read_bytes(),
        (trained[0] / "curve.csv").read_bytes(),
    )
    assert json.loads(before[0])["config"]["seeds"] == [0, 1]
