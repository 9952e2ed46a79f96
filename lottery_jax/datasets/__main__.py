"""The `datasets` command: bring data sets into place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lottery_jax.datasets import tfds
from lottery_jax.datasets.idx import from_idx
from lottery_jax.datasets.in_memory import load_dataset
from lottery_jax.datasets.registry import (
    BUILT_IN,
    NAME,
    Info,
    check_name,
    prepared_folder,
    resolve_folder,
)
from lottery_jax.errors import DataError
from lottery_jax.system.command_line import CommandParser, exit_status, path_argument


def _prepare_streamed(name: str, known: Info, folder: Path) -> Path:
    assert known.tfds_name is not None
    if tfds.find_prepared(known.tfds_name, folder) is None:
        try:
            tfds.prepare(known.tfds_name, folder, archives=known.archives)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    return prepared_folder(name, folder)


def _is_prepared(name: str, folder: Path) -> bool:
    known = BUILT_IN.get(name)
    if known is None or not known.streamed or known.tfds_name is None:
        return False
    return tfds.find_prepared(known.tfds_name, folder) is not None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = CommandParser(
        prog="python -m lottery_jax.datasets", description="Bring data sets into place."
    )
    parser.add_argument(
        "--data_dir", default="", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    idx = commands.add_parser("from-idx", help="turn MNIST-style idx files into an npz")
    idx.add_argument(
        "folder", type=path_argument, help="the folder with train-images-idx3-ubyte and the others"
    )
    idx.add_argument("name", help="name of the data set, such as fashion_mnist")
    prepare = commands.add_parser("prepare", help="fetch or convert a built-in set once")
    prepare.add_argument("name", choices=sorted(BUILT_IN))
    commands.add_parser("list", help="list the data sets and which are ready")
    args = parser.parse_args(argv)

    def command() -> None:
        folder = resolve_folder(args.data_dir, "--data_dir")
        if folder.exists() and not folder.is_dir():
            raise DataError(f"--data_dir: {folder} is not a directory")
        if args.command == "from-idx":
            check_name(args.name)
            if args.name == "digits":
                raise DataError("digits is built in and never read from a file; choose a new name")
            from_idx(args.folder, folder / f"{args.name}.npz")
            print(f"wrote {folder / args.name}.npz")
        elif args.command == "prepare":
            known = BUILT_IN[args.name]
            if known.streamed:
                print(f"{args.name}: prepared in {_prepare_streamed(args.name, known, folder)}")
                return
            data = load_dataset(args.name, folder)
            for note in data.notes:
                print(note)
            print(f"{data.name}: {len(data.x_train)} training and {len(data.x_test)} test images")
        else:
            files = {p.stem for p in folder.glob("*.npz") if NAME.fullmatch(p.stem)}
            for name in sorted({*BUILT_IN, *files}):
                there = name in files or name == "digits" or _is_prepared(name, folder)
                print(f"{name:16} {'ready' if there else 'not here yet'}")

    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main())
