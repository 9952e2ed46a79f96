"""The `datasets` command: bring data sets into place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lottery_jax.datasets import tfds
from lottery_jax.datasets.checks import ARRAYS
from lottery_jax.datasets.dataset import Dataset
from lottery_jax.datasets.idx import from_idx
from lottery_jax.datasets.in_memory import load_dataset
from lottery_jax.datasets.npz import read_npz, write_npz
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


def _check_own_name(name: str, what: str = "config.data.name") -> None:
    """Refuse a name whose file would never be read."""
    check_name(name, what)
    if name == "digits" or (name in BUILT_IN and BUILT_IN[name].streamed):
        raise DataError(f"{name} is built in and never read from a file; choose a new name")


def _known_classes(name: str) -> int | None:
    return BUILT_IN[name].num_classes if name in BUILT_IN else None


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(side) for side in text.split(",")) if text else ()
    except ValueError as error:
        raise DataError(f"--input_shape: {text!r} is not height,width,channels") from error


def _write(own: Dataset, path: Path) -> None:
    """Write a checked data set as an npz and say what it holds."""
    write_npz(path, own.arrays)
    for note in own.notes:
        print(note)
    classes = f"{own.num_classes} classes"
    if own.class_names:
        classes += f" ({', '.join(own.class_names)})"
    print(
        f"wrote {path}: {len(own.x_train)} training and {len(own.x_test)} test images of "
        f"{own.image_shape}, {classes}; use it with --config.data.name={own.name}"
    )


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
    images = commands.add_parser(
        "from-folder", help="turn folders of PNG and JPEG files into an npz"
    )
    images.add_argument(
        "folder", type=path_argument, help="holds train/CLASS/ and test/CLASS/, or CLASS/ alone"
    )
    images.add_argument(
        "--input_shape", default="", help="height,width,channels to which images are brought"
    )
    images.add_argument(
        "--test_fraction",
        type=float,
        default=0.2,
        help="the share of each class that is tested on where there is no folder test "
        "(default: %(default)s)",
    )
    npz = commands.add_parser("from-npz", help="check an npz of your own and put it into place")
    npz.add_argument(
        "file", type=path_argument, help="has the arrays x_train, y_train, x_test and y_test"
    )
    for command_parser in (images, npz):
        command_parser.add_argument("--name", required=True, help="name of the data set")
    prepare = commands.add_parser("prepare", help="fetch or convert a built-in set once")
    prepare.add_argument("name", choices=sorted(BUILT_IN))
    commands.add_parser("list", help="list the data sets and which are ready")
    args = parser.parse_args(argv)

    def command() -> None:
        folder = resolve_folder(args.data_dir, "--data_dir")
        if folder.exists() and not folder.is_dir():
            raise DataError(f"--data_dir: {folder} is not a directory")
        if args.command == "from-idx":
            _check_own_name(args.name)
            from_idx(args.folder, folder / f"{args.name}.npz")
            print(f"wrote {folder / args.name}.npz")
        elif args.command == "from-folder":
            _check_own_name(args.name, "--name")
            shape = _shape(args.input_shape)
            own = Dataset.from_folder(
                args.folder,
                name=args.name,
                num_classes=_known_classes(args.name),
                input_shape=shape,
                test_fraction=args.test_fraction,
            )
            _write(own, folder / f"{args.name}.npz")
        elif args.command == "from-npz":
            _check_own_name(args.name, "--name")
            arrays = read_npz(args.file)
            own = Dataset.from_arrays(
                *(arrays[key] for key in ARRAYS),
                name=args.name,
                num_classes=_known_classes(args.name),
            )
            _write(own, folder / f"{args.name}.npz")
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
