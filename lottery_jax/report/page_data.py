"""Read what the page of runs shows: every trial with its ticket, its training curve and warnings."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lottery_jax.curve import ACCURACY, WINNING, is_share
from lottery_jax.report.curves import UNREADABLE, RunCurve, read_record, read_rows, series_label
from lottery_jax.report.labels import flatten, legend_names
from lottery_jax.report.trained import ticket_costs

# The training curves of a page have about this many points together, and each curve not more than
# that: 31 levels, 6 seeds and 2 controls stay under 6 MB.
_POINTS, _POINTS_OF_CURVE = 110_000, 200
# A page lists this many warnings of a kind, and counts the others.
_MOST_WARNINGS = 8
# A loss as near to that of a network that knows nothing, relatively, has not moved.
_UNMOVED = 0.01
# An accuracy that is not above this multiple of 1 / classes is called chance.
_CHANCE = 1.1

# What the card of a ticket shows of its metadata, in this order.
_CARD = (
    "model", "input_shape", "num_classes", "data", "method", "result", "weights_remaining",
    "weights_total", "rewind_step", "start_step", "sha256", "config_fingerprint",
    "lottery_jax_version", "optimizer", "found_by",
)  # fmt: skip


def page_data(runs: Sequence[RunCurve], out: Path) -> dict[str, Any]:
    """Return the contents of a page as plain data for JSON; numbers that are not finite are None.

    Args:
        runs: the runs, pooled or not.
        out: the directory of the page, from which links start.

    Returns:
        `runs`: for each run its name, metric, facts (pairs of texts) and warnings.
        `trials`: a row for each trial, the accuracy and the density in percent, with the directory
        of its ticket, its card, its training curve, and the epochs `spent` on a winning ticket from
        nothing, a mean over seeds (None where there is none).
        `texts`: what the cards say; they have indices into it. `labels`: the controls in words.
    """
    texts: dict[str, int] = {}
    found: list[dict[str, Any]] = []
    shown = []
    folders = [folder for run in runs for folder in dict.fromkeys(run.folders.values())]
    rows_of = {folder: read_rows(folder) for folder in folders}
    total = sum(map(len, rows_of.values()))
    most = max(8, min(_POINTS_OF_CURVE, _POINTS // max(total, 1)))
    names = legend_names(runs) if len(runs) > 1 else [run.title for run in runs]
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        warnings = _Warnings()
        trials: list[dict[str, Any]] = []
        spent = {level: _number(cost.epochs) for level, cost in ticket_costs(run).items()}
        for folder in dict.fromkeys(run.folders.values()):
            curves = _training_curves(folder, run.metric, most, warnings)
            for row in rows_of[folder]:
                if run.folders.get(int(row["seed"])) == folder:
                    trial = _trial(row, run, number)
                    key = (trial["seed"], trial["level"], trial["control"])
                    trial["curve"] = curves.get(key)
                    trial["spent"] = spent.get(key[1]) if key[2] == WINNING else None
                    trials.append(trial | _ticket(folder, trial, out, texts, warnings))
        _check(run, trials, warnings)
        shown.append(
            {
                "name": name,
                "metric": run.metric,
                "share": is_share(run.metric),
                "facts": list(_facts(run, trials)),
                "warnings": warnings.lines(),
            }
        )
        found += trials
    for trial in found:
        trial.pop("classes")
        trial.pop("empty")
    labels = {t["control"]: series_label(t["control"]) for t in found}
    return {"runs": shown, "trials": found, "texts": list(texts), "labels": labels, "most": most}


class _Warnings:
    """Warnings by kind, each with the trials that it speaks of."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, kind: str, where: str) -> None:
        self._found.setdefault(kind, []).append(where)

    def lines(self) -> list[str]:
        lines = []
        for kind, places in self._found.items():
            more = len(places) - _MOST_WARNINGS
            listed = "; ".join(filter(None, places[:_MOST_WARNINGS]))
            and_more = f"; and {more} more" if more > 0 else ""
            lines.append(f"{kind}: {listed}{and_more}" if listed else kind)
        return lines


def _trial(row: Mapping[str, str], run: RunCurve, number: int) -> dict[str, Any]:
    scale = 100 if is_share(run.metric) else 1
    return {
        "run": number,
        "seed": int(row["seed"]),
        "level": int(row["level"]),
        "control": row["control"],
        "left": _number(row["density"], 100),
        "metric": _number(row[f"test_{run.metric}"], scale),
        "test_loss": _number(row["test_loss"]),
        "train_loss": _number(row["train_loss"]),
        "epochs": _number(row["epochs"]),
        "seconds": _number(row["seconds"]),
    }


def _number(value: object, scale: float = 1) -> float | None:
    """Return a number with five significant digits; None if it is not a finite number.

    >>> _number("0.123456", 100), _number("nan"), _number(None), _number(2340)
    (12.346, None, None, 2340)
    """
    try:
        number = float(value) * scale  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    rounded = float(f"{number:.5g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _place(trial: Mapping[str, Any]) -> str:
    return f"seed {trial['seed']}, level {trial['level']}, {trial['control']}"


def _ticket(
    folder: Path, trial: Mapping[str, Any], out: Path, texts: dict[str, int], warnings: _Warnings
) -> dict[str, Any]:
    """Return where a trial's ticket is, its card, its layers, and which layers have no weight."""
    found: dict[str, Any] = {"path": None, "card": None, "layers": None}
    found |= {"url": None, "classes": None, "empty": []}
    name = "ticket" if trial["control"] == WINNING else trial["control"]
    if Path(name).name != name or name == "..":
        return found  # curve.csv may be a stranger's: no path leads out of the run
    place = folder / f"seed_{trial['seed']}" / f"level_{trial['level']:02d}" / name
    try:
        if not (place / "metadata.json").is_file():
            return found
        metadata = json.loads((place / "metadata.json").read_text(encoding="utf-8"))
        layers = {}
        for layer in metadata["layer_order"]:
            kept, total = metadata["layers"][layer]
            layers[str(layer)] = (int(kept), int(total))
        classes = int(metadata.get("num_classes") or 0)
        metadata["sha256"] = {k: v[:16] for k, v in metadata.get("sha256", {}).items()}
        card = {key: _words(metadata[key]) for key in _CARD if key in metadata}
    except UNREADABLE as error:
        warnings.add("The metadata of a ticket can't be read", f"{_place(trial)}: {error}")
        return found
    return {
        "path": str(place),
        "url": link(place, out),
        "card": {key: texts.setdefault(text, len(texts)) for key, text in card.items()},
        "layers": {texts.setdefault(k, len(texts)): counts for k, counts in layers.items()},
        "classes": classes,
        "empty": [layer for layer, (kept, _) in layers.items() if kept == 0],
    }


def link(place: Path, out: Path) -> str:
    """Return a relative link from the directory `out`; it never has a scheme.

    >>> link(Path("runs/javascript:alert(1)"), Path("runs/report"))
    '../javascript%3Aalert%281%29'
    """
    try:
        return quote(os.fsencode(Path(os.path.relpath(place, out)).as_posix()))
    except ValueError:  # another drive of Windows
        return place.resolve().as_uri()


def _words(value: Any) -> str:
    """Return a value of JSON as text.

    >>> _words({"name": "vgg11", "options": {"width": 1.0}}), _words([0.123456789, 28]), _words("")
    ('name vgg11, options.width 1', '0.123457, 28', 'none')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(one)}" for key, one in flatten(value)) or "none"
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value in (None, "") else str(value)


_Key = tuple[int, int, str]


def _training_curves(
    folder: Path, metric: str, most: int, warnings: _Warnings
) -> dict[_Key, dict[str, list[float | None]]]:
    """Return the columns of metrics.jsonl for each trial, thinned to `most` steps.

    A line that can't be read, such as one that a killed process left, is passed over.
    """
    columns = ("train_loss", "test_loss", f"test_{metric}")
    found: dict[_Key, dict[int, dict[str, Any]]] = {}
    with contextlib.suppress(OSError), (folder / "metrics.jsonl").open(errors="replace") as file:
        for line in file:
            with contextlib.suppress(*UNREADABLE):
                row = json.loads(line)
                key = (int(row["seed"]), int(row["level"]), str(row["control"]))
                values = {c: row[c] for c in columns if row.get(c) is not None}
                found.setdefault(key, {}).setdefault(int(row["step"]), {}).update(values)
    curves = {}
    for (seed, level, control), by_step in found.items():
        for step in sorted(by_step):
            if bad := [c for c, n in by_step[step].items() if _number(n) is None]:
                place = f"seed {seed}, level {level}, {control}, step {step} ({', '.join(bad)})"
                warnings.add("Not finite", place)
                break
        scale = {columns[2]: 100 if is_share(metric) else 1}
        steps = _thinned(sorted(by_step), most)
        curves[seed, level, control] = {"step": [_number(step) for step in steps]} | {
            ("metric" if column == columns[2] else column): [
                _number(by_step[step].get(column), scale.get(column, 1)) for step in steps
            ]
            for column in columns
        }
    return curves


def _thinned(steps: Sequence[int], most: int) -> list[int]:
    """Return at most `most` steps, evenly chosen, with the first and the last one.

    >>> _thinned(range(10), 4), _thinned([3, 5], 4)
    ([0, 3, 6, 9], [3, 5])
    """
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _check(run: RunCurve, trials: Sequence[Mapping[str, Any]], warnings: _Warnings) -> None:
    """Add what a reader must know before the numbers are believed."""
    for trial in trials:
        if trial["empty"]:
            warnings.add("No weight is left", f"{_place(trial)}: {', '.join(trial['empty'])}")
        classes = trial["classes"] or 0
        if run.metric != ACCURACY or classes < 2:
            continue
        accuracy, loss = trial["metric"], trial["train_loss"]
        unlearned = math.log(classes)
        if (accuracy is not None and accuracy <= 100 * _CHANCE / classes) or (
            loss is not None and abs(loss - unlearned) <= _UNMOVED * unlearned
        ):
            warnings.add("No better than chance", f"{_place(trial)}: {accuracy} %")
    with contextlib.suppress(*UNREADABLE):
        pooled = len(set(run.folders.values())) > 1
        seeds = run.seeds if pooled else run.config["seeds"]
        planned = len(seeds) * sum(1 for _ in _planned(run.config))
        if len(trials) < planned:
            warnings.add(f"Not complete: {len(trials)} of {planned} trials are there", "")
    with contextlib.suppress(*UNREADABLE):
        for folder in dict.fromkeys(run.folders.values()):
            for other in read_record(folder).get("resumed_with", []):
                warnings.add("Resumed with other versions", _words(other))


def _planned(config: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield the (level, control) that a config asks of each seed."""
    for level in range(config["ladder"]["levels"] + 1):
        yield level, WINNING
        if not level and "aligned" in config["controls"]:
            yield level, "aligned"
        if level and level in (config["control_levels"] or (level,)):
            yield from ((level, control) for control in config["controls"])


def _facts(run: RunCurve, trials: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the header of a run: pairs of texts."""
    try:
        record = read_record(run.workdir)
    except UNREADABLE:
        record = {}
    yield "network", run.network
    yield "data", f"{run.data} (SHA-256 {str(record.get('data_sha256') or 'unknown')[:16]})"
    yield "optimizer", run.optimizer
    yield "tickets", f"{run.method}, {run.origin}"
    yield "100 % of the weights", run.counted_weights
    yield "seeds", ", ".join(map(str, run.seeds))
    epochs = sum(trial["epochs"] or 0 for trial in trials)
    hours = sum(trial["seconds"] or 0 for trial in trials) / 3600
    yield "cost", f"{len(trials)} trials, {epochs:g} epochs, {hours:.2f} hours of training"
    with contextlib.suppress(*UNREADABLE):
        macs = sum(record["cost"]["multiply_adds"].values())
        yield "multiply-adds", f"{macs:.4g} for one example, with all weights"
    with contextlib.suppress(OSError, OverflowError):
        time = max((f / "curve.csv").stat().st_mtime for f in run.folders.values())
        yield "last result", datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")
    machine = record.get("machine")
    yield "machine", _words(machine) if machine else "not recorded"
    yield "versions", _words(record.get("versions") or "not recorded")
    yield "commit", str(record.get("git_commit") or "not recorded")
    yield "fingerprint", str(record.get("fingerprint") or "not recorded")
    yield "settings of JAX", _words(record.get("settings") or "not recorded")
    yield "directory", ", ".join(map(str, dict.fromkeys(run.folders.values())))
