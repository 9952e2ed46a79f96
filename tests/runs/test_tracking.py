"""What trackers get, read back from their own files, and that none of them stops a run."""

import json
import struct
import sys
import time
import types

import pytest

from lottery_jax import tickets
from lottery_jax.curve import WINNING
from lottery_jax.runs import tracking
from lottery_jax.runs.directory import Trial
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.runs.metrics import MetricsLog
from lottery_jax.runs.store import RunStore
from tests.helpers import make_tiny_config, quiet_console, synthetic_ticket


def epoch(level, number, control="winning", seed=0):
    return {"seed": seed, "level": level, "control": control, "epoch": number, "step": 10 * number,
            "train_loss": 1 / number, "test_accuracy": 0.9}  # fmt: skip


def curve_row(level, density, control="winning", seed=0):
    return {"seed": seed, "level": level, "control": control, "density": density,
            "test_accuracy": 0.9, "note": "no number"}  # fmt: skip


def wandb_records(file):
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, found = file.read_bytes(), 7, b"", []
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if (rest := -at % 32768) and rest < 7:
            at += rest
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the end of one
            found.append(Record.FromString(whole))
            whole = b""
    return found


def history(records):
    """The rows of a .wandb file: {name: value} with `_step`."""
    rows = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    return [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for row in rows
    ]


def events(folder):
    """The events of each file, in the order of their names; each is a length, a sum, data, a sum."""
    from tensorboard.compat.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        data, at, each = file.read_bytes(), 0, []
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            each.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += length + 16
        found.append(each)
    return found


def scalars(each):
    """(name, step) -> value of a file's events."""
    return {(v.tag, e.step): v.simple_value for e in each for v in e.summary.value}


@pytest.mark.slow
def test_wandb_has_one_run_with_density_in_every_row(tmp_path, monkeypatch):
    """Offline, in two processes of the same run; each writes a file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_DIR", raising=False)
    said = []
    config = make_tiny_config(
        **{"wandb.mode": "offline", "wandb.group": "a group", "wandb.tags": ("one", "two"),
           "wandb.job_type": "ablation", "wandb.artifacts": ("ticket",)}
    )  # fmt: skip
    run = tmp_path / "run"
    (run / "seed_0").mkdir(parents=True)
    (run / "seed_0" / "mask").write_text("a mask")
    for number in range(2):
        trackers = tracking.open_tracking(config, run, 2 * number, 0, said.append)
        trackers.log(epoch(number, 1), 0.5**number)
        trackers.log(epoch(number, 2), 0.5**number)
        trackers.log_level([curve_row(number, 0.5**number)])
        if number:
            trackers.keep(run / "seed_0", "ticket-seed_0", "ticket")
            trackers.keep(run / "seed_0", "report", "report")  # which the config does not ask for
        trackers.finish()
        time.sleep(1.1)  # the name of its folder has the time in seconds
    files = [wandb_records(file) for file in sorted(run.glob("wandb/offline-run-*/*.wandb"))]
    assert len(files) == 2
    assert said == []
    runs = [record.run for records in files for record in records if record.HasField("run")]
    assert {each.run_id for each in runs} == {(run / "wandb_id").read_text().strip()}
    for each in runs:
        assert (each.run_group, list(each.tags), each.job_type) == (
            "a group", ["one", "two"], "ablation"
        )  # fmt: skip
    rows = [row for records in files for row in history(records)]
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    assert [(r["level"], r["density"], r["sparsity"]) for r in rows] == [(0, 1, 0)] * 2 + [
        (1, 0.5, 0.5)
    ] * 2
    assert all(row["seed_0/winning/test_accuracy"] == 0.9 for row in rows)
    # A row for each level: beside its last epoch.
    levels = [row for row in rows if "curve/density" in row]
    assert [(r["curve/density"], r["_step"]) for r in levels] == [(1, 1), (0.5, 3)]
    assert all(row["curve/seed_0/winning/test_accuracy"] == 0.9 for row in levels)
    metrics = [
        record.metric for records in files for record in records if record.HasField("metric")
    ]
    assert [m.step_metric for m in metrics if m.glob_name == "curve/*"] == ["curve/density"] * 2
    artifacts = [record.artifact for record in files[1] if record.HasField("artifact")]
    name = (run / "wandb_id").read_text().strip()
    assert [(a.name, a.type) for a in artifacts] == [(f"ticket-seed_0-{name}", "ticket")]


def test_event_files_have_rows_at_their_numbers_and_levels_at_theirs(tmp_path):
    """The first process is killed after its second row, of which metrics.jsonl keeps the first."""
    config, said = make_tiny_config(tensorboard=True), []
    for rows in (0, 1):
        trackers = tracking.open_tracking(config, tmp_path, rows, 1 - rows, said.append)
        trackers.log(epoch(0, rows + 1), 1.0)
        trackers.log(epoch(0, rows + 2, "random"), 0.25)
        trackers.log_level([curve_row(3, 0.25), curve_row(3, 0.25, "random")])
        trackers.finish()
    assert said == []
    first, second = sorted(events(tmp_path / "tensorboard"), key=lambda each: each[1].step)
    assert [each[0].file_version for each in (first, second)] == ["brain.Event:2"] * 2
    assert scalars(first)["density", 0] == 1 and scalars(first)["sparsity", 1] == 0.75
    assert scalars(second)["seed_0/winning/train_loss", 1] == 0.5
    assert scalars(second)["curve/seed_0/random/density", 3] == 0.25  # at the step of its level
    assert {step for _, step in scalars(second)} == {1, 2, 3}


class Steps:
    """A run that keeps the steps at which it got rows, as wandb's does."""

    def __init__(self):
        self.steps = []

    def log(self, values, step):
        self.steps.append(step)


@pytest.mark.parametrize(
    "there, rows, dropped, expected",
    [
        (0, 0, 0, [0, 1, 2, 3]),
        (5, 5, 0, [5, 6, 7, 8]),  # resumed after a stop
        (7, 5, 2, [7, 8]),  # killed: the two rows that come again are there
        (6, 5, 2, [6, 7, 8]),  # killed before the second of them was sent
        (9, 5, 2, [9, 10, 11, 12]),  # it is not known which rows are there: none is lost
        (4, 5, 0, [5, 6, 7, 8]),  # wandb lacks a row
    ],
)
def test_a_resumed_run_sends_each_row_once_and_loses_none(there, rows, dropped, expected):
    run = Steps()
    tracker = tracking.WandbRun(run, there, rows, dropped)
    for number in range(rows, rows + 4):
        tracker.log(number, {"density": 1.0})
    assert run.steps == expected
    tracker.log_level(rows + 3, 0, {"curve/density": 1.0})
    assert run.steps[-1] == expected[-1]


@pytest.fixture
def wandb(monkeypatch):
    """A module with the part of wandb's interface that is used, whose run has `wandb.there` steps."""
    module, kept = types.ModuleType("wandb"), []

    class Run(Steps):
        id, resumed = "0123abcd", True

        def __init__(self):
            super().__init__()
            self.rows, self.artifacts = [], []
            self.step = module.there

        def log(self, values, step):
            super().log(values, step)
            self.rows.append(values)

        def log_artifact(self, path, name, type):
            if name.startswith("bad"):
                raise ValueError("no artifact")
            self.artifacts.append((path, name, type))

        def define_metric(self, *args, **kwargs):
            pass

        def finish(self):
            pass

    def init(**kwargs):
        kept.append(Run())
        return kept[-1]

    module.init, module.runs, module.there = init, kept, 0
    module.Settings = type("Settings", (), {"model_fields": {}})
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return module


@pytest.mark.parametrize("there, sent", [(3, [3, 4]), (5, []), (7, [])])
def test_rows_that_a_killed_process_did_not_send_are_sent(tmp_path, wandb, there, sent):
    """Five rows are kept, of which the last belongs to a ticket that is not complete."""
    rows = [(epoch(1, n + 1), 0.5 if n < 4 else None) for n in range(5)]
    wandb.there, said = there, []
    config = make_tiny_config(**{"wandb.mode": "online"})
    trackers = tracking.open_tracking(config, tmp_path, 5, 2, said.append, lambda n: rows[n:])
    (run,) = wandb.runs
    assert run.steps == sent and said == []
    assert [row["seed_0/winning/epoch"] for row in run.rows] == [number + 1 for number in sent]
    if sent:
        assert run.rows[0]["sparsity"] == 0.5 and "density" not in run.rows[1]
    trackers.log(epoch(1, 6), 0.5)
    assert run.steps == sent + ([5] if there <= 5 else [])


def test_rows_are_read_from_a_number_on_with_the_densities_of_complete_tickets(tmp_path):
    store = RunStore.__new__(RunStore)
    store._workdir = tmp_path
    store._metrics = MetricsLog(tmp_path / "metrics.jsonl", lambda row: True)
    ticket = synthetic_ticket("lenet_300_100", (8, 8, 1), 0.2)
    tickets.save_ticket(store.trial(0, 1).ticket_dir, ticket)
    rows = [epoch(1, 1), epoch(1, 2), epoch(2, 1)]
    for row in rows:
        store._metrics.write(row)
    store._metrics.close()
    (_, density), _ = found = list(store._rows_from(1))
    assert found == [(rows[1], density), (rows[2], None)] and density == pytest.approx(
        0.2, abs=0.01
    )


def test_a_complete_run_sends_its_report_and_its_last_tickets(tmp_path, wandb):
    """Also those that a process did not send because it was killed; only complete ones."""
    overrides = {"wandb.mode": "online", "wandb.artifacts": ("ticket", "report"), "seeds": (0, 1)}
    config = make_tiny_config(**overrides)
    last = Trial(tmp_path, 1, config.ladder.levels, WINNING).ticket_dir
    tickets.save_ticket(last, synthetic_ticket("lenet_300_100", (8, 8, 1), 0.2))
    tracking.send_report(config, tmp_path, pytest.fail)
    assert wandb.runs[0].artifacts == [
        (str(tmp_path / "report"), "report-0123abcd", "report"),
        (str(last), "ticket-seed_1-0123abcd", "ticket"),
    ]


def test_an_artifact_that_fails_does_not_end_the_tracking(tmp_path, wandb):
    said, config = [], make_tiny_config(**{"wandb.mode": "online", "wandb.artifacts": ("ticket",)})
    trackers = tracking.open_tracking(config, tmp_path, 0, 0, said.append)
    trackers.keep(tmp_path, "bad", "ticket")
    trackers.log(epoch(0, 1), 1.0)
    trackers.keep(tmp_path, "good", "ticket")
    assert said == ["wandb: ValueError: no artifact; bad is not sent"]
    assert wandb.runs[0].steps == [0]
    assert wandb.runs[0].artifacts == [(str(tmp_path), "good-0123abcd", "ticket")]


class Broken:
    """A tracker whose methods raise from some call on."""

    def __init__(self, good):
        self.good, self.calls = good, 0

    def log(self, number, values):
        self.calls += 1
        if self.calls > self.good:
            raise ConnectionError("the network\nis down")

    def log_level(self, number, level, values):
        self.log(number, values)

    def finish(self):
        self.log(0, {})


class Kept(Broken):
    def __init__(self):
        super().__init__(good=100)


@pytest.mark.parametrize("good", [0, 1, 2, 3])
def test_a_tracker_that_fails_is_off_and_the_others_are_not(good):
    said, broken, kept = [], Broken(good), Kept()
    trackers = tracking.Tracking({"wandb": lambda: broken, "other": lambda: kept}, 0, said.append)
    trackers.log(epoch(0, 1), 1.0)
    trackers.log(epoch(0, 2), 1.0)
    trackers.log_level([curve_row(0, 1.0)])
    trackers.finish()
    assert said == ["wandb: ConnectionError: the network is down; the run goes on without it"]
    assert (broken.calls, kept.calls) == (good + 1, 4)


def test_a_missing_package_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    for name in ("tensorboard", "tensorboard.compat.proto.event_pb2", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    said = []
    overrides = {"tensorboard": True, "wandb.mode": "offline", "wandb.client": "trackio"}
    trackers = tracking.open_tracking(make_tiny_config(**overrides), tmp_path, 0, 0, said.append)
    trackers.log(epoch(0, 1), 1.0)
    trackers.finish()
    assert [line.split(":")[0] for line in said] == ["trackio", "tensorboard"]
    for line in said:
        assert f"pip install 'lottery_jax[{line.split(':')[0]}]'; the run goes on" in line
        assert "\n" not in line


def test_a_folder_that_can_not_be_written_is_one_warning(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    said = []
    trackers = tracking.open_tracking(
        make_tiny_config(tensorboard=True), tmp_path, 0, 0, said.append
    )
    trackers.log(epoch(0, 1), 1.0)
    trackers.finish()
    assert len(said) == 1 and said[0].startswith("tensorboard: FileExistsError")


@pytest.fixture
def trackio(monkeypatch):
    """A module with the part of trackio's interface that is used, which keeps what it gets."""
    found = types.SimpleNamespace(runs=[], rows=[])

    class Run:
        id = "0123abcd"

        def log(self, metrics, step=None):
            found.rows.append((step, metrics))

        def finish(self):
            found.rows.append("finished")

    def init(project, name=None, group=None, space_id=None, config=None, resume="never",
             embed=True):  # fmt: skip
        found.runs.append((project, name, group, resume, config["train.epochs"]))
        return Run()

    module = types.ModuleType("trackio")
    module.init = init
    monkeypatch.setitem(sys.modules, "trackio", module)
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_trackio_continues_its_run_by_name(tmp_path, trackio):
    overrides = {"wandb.mode": "offline", "wandb.client": "trackio", "wandb.name": "my run"}
    config, said = make_tiny_config(**overrides), []
    for rows in (0, 1):
        trackers = tracking.open_tracking(config, tmp_path, rows, 0, said.append)
        trackers.log(epoch(0, 1), 0.5)
        trackers.finish()
    assert said == []
    first, second = trackio.runs
    assert first == second and first[0] == "lottery_jax" and first[3:] == ("allow", 2)
    assert first[1].startswith("my_run-") and len(first[1]) == len("my_run-") + 8
    assert [row[0] for row in trackio.rows if row != "finished"] == [0, 1]
    assert trackio.rows[0][1]["density"] == 0.5 and trackio.rows.count("finished") == 2


@pytest.mark.parametrize("mode, space", [("offline", "me/space"), ("online", "")])
def test_trackio_sends_nothing_elsewhere_unless_the_config_says_so(
    tmp_path, trackio, monkeypatch, mode, space
):
    monkeypatch.setenv("TRACKIO_SPACE_ID", space)
    config, said = make_tiny_config(**{"wandb.mode": mode, "wandb.client": "trackio"}), []
    tracking.open_tracking(config, tmp_path, 0, 0, said.append)
    assert trackio.runs == [] and len(said) == 1 and "TRACKIO_SPACE_ID" in said[0]


@pytest.mark.slow
def test_a_resumed_run_gives_its_trackers_every_row_once(tmp_path, one_device):
    """Event files against metrics.jsonl and curve.csv."""
    config = make_tiny_config(**{"tensorboard": True, "seeds": (0, 1), "controls": ("random",)})
    run = tmp_path / "run"
    run_ladder(config, run, devices=one_device, console=quiet_console())
    (run / "seed_1" / "level_02").rename(tmp_path / "lost")
    curve = run_ladder(config, run, devices=one_device, console=quiet_console())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first, second = sorted(map(scalars, events(run / "tensorboard")), key=len, reverse=True)
    again = {key for key in first.keys() & second.keys() if key[0].endswith(("loss", "accuracy"))}
    assert again and all(first[key] == second[key] for key in again)
    shown = first | second
    densities = {(r["level"], r["control"]): r["density"] for r in curve}
    for number, row in enumerate(rows):
        name = f"seed_{row['seed']}/{row['control']}"
        assert shown[f"{name}/train_loss", number] == pytest.approx(row["train_loss"])
        assert shown["density", number] == pytest.approx(densities[row["level"], row["control"]])
    for row in curve:
        name = f"curve/seed_{row['seed']}/{row['control']}/test_accuracy"
        assert shown[name, row["level"]] == pytest.approx(row["test_accuracy"])
