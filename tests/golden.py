"""The golden record: what a change of the code's structure must not change, to the last bit.

    python tests/golden.py record golden.json                    with the code of this checkout
    python tests/golden.py check golden.json                     the same again, compared
    python tests/golden.py against COMMIT [golden.json]          both: recorded with another commit
    python tests/golden.py against COMMIT --only=snip,matrix     some of the runs

Runs small ladders as a user does, each in a process of its own, and keeps of each the fingerprint of
its config, `curve.csv` without times, and the SHA-256 hashes of the masks and weights of all its
tickets. Bits depend on the machine, so a record is compared on the machine where it was made.
`against` also begins a run with the other commit's code and goes on with this one's. If the other commit
does not know the keys or the controls of a run, leave that one out with --only.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
Outcome = dict[str, Any]

CONFIG = """
from lottery_jax.recipes import quickstart


def get_config():
    c = quickstart()
    c.seeds = (0, 1)
    c.train.epochs = 3
    c.ladder.levels = 2
    c.controls = ()
    return c
"""
NARROW = {"seeds": "0", "data.input_shape": "(16,16,1)", "ladder.levels": "1", "train.epochs": "2"}
FIRST_CONTROLS = "reinit,random,random_preserved,shuffle_global,shuffle_layers,init,dense_sign"
NEWER_CONTROLS = "noise,resample,rescaled,invert,smart_ratio,replayed_random,aligned,unaligned"
RUNS: dict[str, dict[str, str]] = {
    "quickstart": {"ladder.levels": "4", "train.epochs": "8", "controls": "random"},
    "resnet20": {**NARROW, "model.name": "resnet20", "model.width": "0.25", "data.input_shape": "()"},
    "vgg11": {**NARROW, "model.name": "vgg11", "model.width": "0.05"},
    "snip": {"ladder.draw": "init", "ladder.scores": "snip", "ladder.rewind": "0"},
    "iterative_snip": {"ladder.draw": "init_nested", "ladder.scores": "snip", "ladder.rewind": "0"},
    "grasp": {"ladder.draw": "init", "ladder.scores": "grasp", "ladder.rewind": "0"},
    "synflow": {"ladder.draw": "init", "ladder.scores": "synflow", "ladder.rounds": "10"},
    "oneshot_layers": {"ladder.draw": "oneshot", "ladder.scope": "layer", "ladder.skip_last": "True"},
    "controls": {"controls": FIRST_CONTROLS, "ladder.rewind": "30st"},
    "newer_controls": {"controls": NEWER_CONTROLS, "ladder.rewind": "30st"},
    "restored": {"ladder.optimizer_state": "restored", "optimizer.name": "adam",
                 "optimizer.learning_rate": "0.001", "data.augment": "crop"},
    "restart": {"ladder.schedule": "restart", "seeds": "0", "data.validation_fraction": "0.1"},
    "matrix": {"transfer.sources": "digits_a", "transfer.targets": "digits_b", "seeds": "0"},
    "new_head": {"source": "quickstart", "transfer.head": "reinit", "transfer.head_mask": "density"},
    "new_head_controls": {"source": "quickstart", "transfer.head": "reinit", "controls": "init,reinit"},
}  # fmt: skip
LONG = {"train.epochs": "60", "controls": "random", "ladder.rewind": "30st"}


def command(run: Path, overrides: dict[str, str], *more: str) -> list[str]:
    """The command of a run, in the folder of all runs."""
    keys = [f"--config.{key}={value}" for key, value in overrides.items()]
    return [sys.executable, "-m", "lottery_jax.main", "--config=golden_config.py",
            f"--workdir={run.name}", *keys, *more]  # fmt: skip


def environment(tree: Path, folder: Path) -> dict[str, str]:
    """A user's, with the code of a checkout."""
    own = ("XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL")
    env = {key: value for key, value in os.environ.items() if key not in own}
    return {**env, "PYTHONPATH": str(tree), "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}


def finish(tree: Path, run: Path, overrides: dict[str, str]) -> Outcome:
    """Runs to the end what is left of a run."""
    done = subprocess.run(
        command(run, overrides), cwd=run.parent, env=environment(tree, run.parent),
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{run.name} ended with {done.returncode}: {done.stderr}")
    return outcome(run)


def interrupt(tree: Path, run: Path, overrides: dict[str, str]) -> None:
    """Begins a run and stops it within its first level."""
    process = subprocess.Popen(
        command(run, overrides), cwd=run.parent, env=environment(tree, run.parent),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log = run / "metrics.jsonl"
    while not (log.is_file() and log.read_bytes().count(b"\n") >= 5):
        if process.poll() is not None:
            raise SystemExit(f"{run.name} ended before it could be stopped")
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    if process.wait() != 128 + signal.SIGTERM:
        raise SystemExit(f"{run.name}: SIGTERM gave the status {process.returncode}")


def two_processes(tree: Path, run: Path, overrides: dict[str, str]) -> Outcome:
    """A run of two processes on this machine."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pair = [
        subprocess.Popen(
            command(run, overrides, "--distributed", f"--coordinator=localhost:{port}",
                    "--processes=2", f"--process={i}"),
            cwd=run.parent, env=environment(tree, run.parent),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for i in range(2)
    ]  # fmt: skip
    if statuses := [status for process in pair if (status := process.wait())]:
        raise SystemExit(f"{run.name} ended with {statuses[0]}")
    return outcome(run)


def outcome(run: Path) -> Outcome:
    """What a run has found, without times."""
    found: Outcome = {"tickets": {}, "curves": {}, "fingerprints": {}}
    for file in sorted(run.rglob("config.json")):
        name = str(file.parent.relative_to(run))
        found["fingerprints"][name] = json.loads(file.read_text())["fingerprint"]
    for file in sorted(run.rglob("curve.csv")):
        rows = list(csv.DictReader(file.read_text().splitlines()))
        found["curves"][str(file.relative_to(run))] = [
            {key: value for key, value in row.items() if key != "seconds"} for row in rows
        ]
    for file in sorted(run.rglob("metadata.json")):
        hashes = json.loads(file.read_text())["sha256"]
        hashes.pop("metadata")  # there are times in it
        found["tickets"][str(file.parent.relative_to(run))] = hashes
    return found


def record(tree: Path, folder: Path, only: list[str]) -> dict[str, Outcome]:
    """The outcomes of all runs with the code of a checkout."""
    (folder / "golden_config.py").write_text(CONFIG)
    found: dict[str, Outcome] = {}
    for name in [*RUNS, "interrupted", "two_processes"]:
        if only and name not in only:
            continue
        began = time.perf_counter()
        run = folder / name
        if name == "interrupted":
            interrupt(tree, run, LONG)
            found[name] = finish(tree, run, LONG)
        elif name == "two_processes":
            found[name] = two_processes(tree, run, RUNS["controls"])
        else:
            found[name] = finish(tree, run, RUNS[name])
        print(f"{name}: {len(found[name]['tickets'])} tickets, "
              f"{time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip
    return found


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """Where two records differ, a line each."""
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            line
            for key in sorted({*there, *here})
            for line in differences(there.get(key), here.get(key), f"{path}/{key}")
        ]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = enumerate(zip(there, here, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{path}/{i}")]
    return [] if there == here else [f"{path}: {there!r}, {here!r}"]


def goes_on(other: Path, folder: Path) -> list[str]:
    """Where a run that another checkout began and this one finished differs from one of its own."""
    run = folder / "begun_before"
    interrupt(other, run, LONG)
    return differences(finish(other, folder / "undisturbed", LONG), finish(HERE, run, LONG))


def conclude(lines: list[str]) -> None:
    """Prints the differences and ends the process."""
    print("\n".join(lines[:40]) or "the same to the bit")
    sys.exit(int(bool(lines)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("record", "check", "against"):
        added = commands.add_parser(name)
        if name == "against":
            added.add_argument("commit")
        added.add_argument("file", type=Path, nargs="?" if name == "against" else None)
        added.add_argument("--only", default="", help="names of runs, with commas between")
    args = parser.parse_args()
    only = [name for name in args.only.split(",") if name]
    with tempfile.TemporaryDirectory(prefix="golden_") as temporary:
        here, there = Path(temporary, "here"), Path(temporary, "there")
        here.mkdir()
        there.mkdir()
        if args.command == "record":
            args.file.write_text(json.dumps(record(HERE, here, only), indent=1) + "\n")
            return
        if args.command == "check":
            recorded = json.loads(args.file.read_text())
            if only:
                recorded = {name: recorded[name] for name in only}
            conclude(differences(recorded, record(HERE, here, only)))
        tree = Path(temporary, "tree")
        worktree = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*worktree, "add", "--quiet", "--detach", tree, args.commit], check=True)
        try:
            recorded = record(tree, there, only)
            if args.file:
                args.file.write_text(json.dumps(recorded, indent=1) + "\n")
            conclude(differences(recorded, record(HERE, here, only)) + goes_on(tree, there))
        finally:
            subprocess.run([*worktree, "remove", "--force", tree], check=True)


if __name__ == "__main__":
    main()
