"""Make the zoo from the run directories that its tickets were trained in, or once more from itself.

    python zoo/build.py RUNS...      from the runs at or below these folders
    python zoo/build.py              from the files in zoo/, in the format that this version writes

Runs are recognised by the fingerprints of the configs below, however their directories are named.
A ticket that is in no given run stays as it is in zoo/. Equal runs give equal files, cards and index.
The runs are made by these commands; the docstrings of the configs say what they cost:

    for method in imp snip grasp synflow; do
      for data in digits fashion_mnist; do
        run=${data}_$method
        python -m lottery_jax.main --config=configs/zoo.py:$run --workdir=runs/zoo/$run
      done
    done
    python -m lottery_jax.main --config=configs/vgg11_fashion_mnist.py:100st --workdir=runs/zoo/vgg11
    python zoo/build.py runs/zoo
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lottery_jax.config import fingerprint, to_json  # noqa: E402
from lottery_jax.curve import WINNING  # noqa: E402
from lottery_jax.errors import TicketError  # noqa: E402
from lottery_jax.sweep.grid import load_config  # noqa: E402
from lottery_jax.system.files import atomic_write, write_text  # noqa: E402
from lottery_jax.tickets import cards, is_complete, load_ticket, read_metadata, save_portable, zoo  # noqa: E402
from lottery_jax.tickets.portable import SUFFIX  # noqa: E402

ZOO = ROOT / "zoo"
MOST_BYTES = 12_000_000


class Series(NamedTuple):
    """Tickets of one method on one data set.

    Attributes:
        name: the folder of the zoo.
        configs: the configs that found them; the first one whose run has a ticket counts.
        seeds: the seeds at each level that is kept.
        control: which ticket of a level is kept.
    """

    name: str
    configs: tuple[str, ...]
    seeds: dict[int, tuple[int, ...]]
    control: str = WINNING


FIVE, THREE = (0, 1, 2, 3, 4), (0, 1, 2)
# The claims' own run has levels 0 to 8 and the same recipe.
FASHION = ("configs/reproduce.py:small_imp", "configs/zoo.py:fashion_mnist_imp")
DIGITS = ("configs/zoo.py:digits_imp",)
VGG = ("configs/vgg11_fashion_mnist.py:100st",)
# From 10.7 to 0.47 % of the weights; the two densities of the other methods are 6.87 and 2.81 %.
EIGHT = dict.fromkeys(range(5, 13), FIVE)
SERIES = (
    # Two dense networks, so that transfers and ladders can begin from their rewind points.
    Series("lenet_digits/imp", DIGITS, {0: (0, 1), **EIGHT}),
    *(Series(f"lenet_digits/imp_{control}", DIGITS, {6: FIVE, 8: FIVE}, control)
      for control in ("random", "reinit")),
    *(Series(f"lenet_digits/{method}", (f"configs/zoo.py:digits_{method}",), {1: THREE, 2: THREE})
      for method in ("snip", "grasp", "synflow")),
    Series("lenet_fashion_mnist/imp", FASHION, EIGHT),
    *(Series(f"lenet_fashion_mnist/imp_{control}", FASHION, {6: (0,), 8: FIVE}, control)
      for control in ("random", "reinit")),
    *(Series(f"lenet_fashion_mnist/{method}",
             (f"configs/reproduce.py:small_{method}", f"configs/zoo.py:fashion_mnist_{method}"),
             {1: (0,), 2: THREE})
      for method in ("snip", "grasp")),
    Series("lenet_fashion_mnist/synflow", ("configs/zoo.py:fashion_mnist_synflow",),
           {1: (0,), 2: THREE}),
    Series("vgg11_fashion_mnist/imp", VGG, {9: (0,), 10: (0,)}),
)  # fmt: skip


def runs_below(folders: list[Path]) -> dict[str, Path]:
    """Return the run directories at and below folders by the fingerprints of their configs."""
    found = {}
    for folder in folders:
        for file in sorted([folder / "config.json", *folder.glob("*/config.json")]):
            if file.is_file():
                record = json.loads(file.read_text(encoding="utf-8"))
                found.setdefault(record["fingerprint"], file.parent)
    return found


def tickets_of(
    series: Series, runs: dict[str, Path], before: dict[str, zoo.Entry]
) -> Iterator[tuple[str, Path, str, str]]:
    """Yield the name, the file or directory, the config and the commit of each ticket of a series.

    A ticket that is in no given run is the one that the zoo has.
    """
    kept = "ticket" if series.control == WINNING else series.control
    fingerprints = {
        config: fingerprint(load_config(str(ROOT / config), {})) for config in series.configs
    }
    trials = [(seed, level) for level, seeds in series.seeds.items() for seed in seeds]
    for seed, level in sorted(trials):
        inside = f"seed_{seed}/level_{level:02d}"
        name = f"{series.name}/{inside}"
        for config in series.configs:
            run = runs.get(fingerprints[config])
            if run and is_complete(run / inside / kept):
                commit = json.loads((run / "config.json").read_text(encoding="utf-8"))["git_commit"]
                yield name, run / inside / kept, config, commit
                break
        else:
            if old := before.get(name):
                yield name, ZOO / f"{name}{SUFFIX}", old.config, old.commit


def write_ticket(name: str, source: Path) -> None:
    """Write a ticket to the zoo, unless the same bytes are there."""
    file = ZOO / f"{name}{SUFFIX}"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / file.name
        save_portable(made, load_ticket(source))
        content = made.read_bytes()
    if not file.is_file() or file.read_bytes() != content:
        with atomic_write(file) as temporary:
            temporary.write_bytes(content)


def entry(name: str, method: str, config: str, commit: str) -> zoo.Entry:
    """Return what the index says of a file that is in the zoo."""
    file = ZOO / f"{name}{SUFFIX}"
    content, m = file.read_bytes(), read_metadata(file)
    return zoo.Entry(
        network=m["model"]["name"],
        data=m["data"],
        method=method,
        control=m["control"],
        seed=m["seed"],
        level=m["level"],
        density=m["density"],
        accuracy=m["result"]["test_accuracy"],
        config=config,
        commit=commit,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def index_text(tickets: dict[str, zoo.Entry]) -> str:
    """Return the index as JSON with a line for each ticket and config, so that changes can be read."""
    names = dict.fromkeys(e.config for e in tickets.values())
    configs = {name: to_json(load_config(str(ROOT / name), {})) for name in names}
    lines = [f"  {json.dumps(name)}: {json.dumps(e._asdict())}" for name, e in tickets.items()]
    texts = [f"  {json.dumps(name)}: {json.dumps(config)}" for name, config in configs.items()]
    return (
        f'{{"version": {zoo.VERSION}, "tickets": {{\n' + ",\n".join(lines)
        + '\n}, "configs": {\n' + ",\n".join(texts) + "\n}}\n"
    )  # fmt: skip


def build(folders: list[Path]) -> dict[str, zoo.Entry]:
    """Write the files, the cards and the index; return the index."""
    before: dict[str, zoo.Entry] = {}
    if (ZOO / "index.json").is_file():
        before = zoo.parse_index(json.loads((ZOO / "index.json").read_text(encoding="utf-8")))
    runs, tickets = runs_below(folders), {}
    for series in SERIES:
        method = series.name.rpartition("/")[2].partition("_")[0]
        found = list(tickets_of(series, runs, before))
        print(f"{series.name}: {len(found)} of {sum(map(len, series.seeds.values()))} tickets")
        for name, source, config, commit in found:
            write_ticket(name, source)
            tickets[name] = entry(name, method, config, commit)
        if found:
            card = cards.series_card(series.name, {name: tickets[name] for name, *_ in found})
            write_text(ZOO / series.name / "README.md", card)
    write_text(ZOO / "index.json", index_text(tickets))
    for file in sorted(ZOO.rglob(f"*{SUFFIX}")):  # the index names none of these
        if file.relative_to(ZOO).with_suffix("").as_posix() not in tickets:
            file.unlink()
    return tickets


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUNS")
    try:
        tickets = build(parser.parse_args().runs)
    except TicketError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in ZOO.rglob("*") if file.is_file())
    print(f"{len(tickets)} tickets, {size} bytes")
    return int(size > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
