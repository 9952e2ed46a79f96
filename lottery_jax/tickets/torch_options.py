"""The options of command lines that read PyTorch files, and their meaning."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lottery_jax.errors import ConfigError
from lottery_jax.pruning import masks
from lottery_jax.tickets import portable, pytorch
from lottery_jax.tickets.addresses import is_address
from lottery_jax.tickets.fitting import Names
from lottery_jax.tickets.layouts import NO_WEIGHTS, Image
from lottery_jax.tickets.ticket import Ticket

SUFFIXES = (".pth", ".pt")
_SHAPE = (32, 32, 3)


class Pixels(NamedTuple):
    """The images of a data set, as a network is given them.

    Attributes:
        shape: (height, width, channels).
        mean: of each channel, of pixel value / 255.
        std: the standard deviation of each, on the same scale.
    """

    shape: tuple[int, ...]
    mean: Sequence[float]
    std: Sequence[float]


def is_pytorch(path: Path) -> bool:
    """Return whether a path is that of a PyTorch file, which need not be there or be readable.

    Raises:
        TicketError: it ends in `.safetensors` and can't be read.
    """
    if is_address(path):
        return False
    if path.suffix == portable.SUFFIX:
        return path.is_file() and not portable.is_portable(path)
    return path.suffix in SUFFIXES or path.is_file()


def add_options(parser: argparse._ActionsContainer) -> None:
    """Add all options but `--model`, `--data` and `--start`, which differ between commands."""
    parser.add_argument("--stem", help="the stem of a ResNet: cifar or imagenet")
    parser.add_argument("--mean", type=_numbers(float), help="the means it was normalised with")
    parser.add_argument("--std", type=_numbers(float), help="the standard deviations")
    parser.add_argument("--input_shape", type=_numbers(int), help="height,width,channels")
    parser.add_argument(
        "--names", type=names, help="the names there of layers here: dense1=fc1,head=fc, a JSON file "
        "of them, or order, by which layers are paired in the order of calls and of the file",
    )  # fmt: skip
    _add_flatten(parser)


def add_export_options(parser: argparse._ActionsContainer) -> None:
    """Add the options for PyTorch of a command that writes."""
    parser.add_argument("--format", choices=("plain", "prune"), help="for PyTorch: prune writes "
                        "weight_orig and weight_mask, as torch.nn.utils.prune; default: plain")  # fmt: skip
    parser.add_argument("--names", type=table, help="for PyTorch: the names there of layers here, such "
                        "as dense1=fc1,head=fc, or a JSON file of them")  # fmt: skip
    _add_flatten(parser)


def _add_flatten(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--flatten", type=images, help="your own network's dense layers that take a flattened image, "
        "with its height and width: dense1=7x7",
    )  # fmt: skip


def for_export(args: argparse.Namespace) -> dict[str, Any]:
    """Return those of the options of `add_export_options` that were given."""
    chosen = {"names": args.names, "flatten": args.flatten, "prune_format": args.format == "prune"}
    return {name: value for name, value in chosen.items() if value}


def given(args: argparse.Namespace) -> list[str]:
    """Return the names of the options for PyTorch files that were given."""
    names = ("stem", "start", "mean", "std", "input_shape", "names", "flatten")
    return [name for name in names if getattr(args, name, None)]


def check(args: argparse.Namespace) -> None:
    """Check what can be wrong with options whatever the data are.

    Raises:
        ConfigError: an option is wrong.
    """
    shape = args.input_shape
    if shape and (len(shape) != 3 or min(shape) < 1):
        raise ConfigError("--input_shape must be height,width,channels")
    if args.std and min(args.std) <= 0:
        raise ConfigError("--std must be above 0")


def read(
    file: Path,
    args: argparse.Namespace,
    pixels: Pixels | None = None,
    *,
    allow_nonfinite: bool = False,
) -> Ticket:
    """Return the ticket of a PyTorch file, as the options describe it.

    Args:
        file: the file.
        args: the options.
        pixels: the images, where the options don't describe them; by default 32x32 pixels of three
            channels, from 0 to 1.
        allow_nonfinite: whether to load weights and statistics that are NaN or infinite.

    Raises:
        ConfigError: an option is missing or wrong.
        TicketError: the file can't be read or does not fit the network.
    """
    check(args)
    shape = tuple(args.input_shape or (pixels.shape if pixels else _SHAPE))
    if len(shape) != 3:
        raise ConfigError(f"--data: {args.data} has no images, as networks from PyTorch take them")
    mean = args.mean or (pixels.mean if pixels else [0.0] * shape[2])
    std = args.std or (pixels.std if pixels else [1.0] * shape[2])
    if not len(mean) == len(std) == shape[2] or min(std) <= 0:
        raise ConfigError(f"--mean and --std must be {shape[2]} numbers each, std above 0")
    model = {"name": args.model} | ({"stem": args.stem} if args.stem else {})
    return pytorch.import_pytorch(
        file,
        model,
        data=args.data,
        input_shape=shape,
        mean=mean,
        std=std,
        start=getattr(args, "start", None),
        allow_nonfinite=allow_nonfinite,
        names=args.names,
        flatten=args.flatten,
    )


def normalisation(args: argparse.Namespace, ticket: Ticket, source: str) -> str:
    """Return, in words, how images are normalised; `source` says where unnamed numbers are from."""
    mean, std = (", ".join(f"{x:.4g}" for x in ticket.metadata[key]) for key in ("mean", "std"))
    unnamed = " and ".join(name for name in ("mean", "std") if not getattr(args, name))
    said = f" ({unnamed}: {source}; --mean and --std change that)" if unnamed else ""
    return f"normalised with mean {mean}, std {std}{said}"


def counts(ticket: Ticket) -> tuple[int, int, str]:
    """Return how many prunable weights remain, how many there are, and which are left out.

    A ResNet's shortcuts without weights become projections, which its file does not have.
    """
    imported = ticket.metadata.get("imported")
    if not isinstance(imported, dict) or NO_WEIGHTS not in str(imported.get("wrapping")):
        return *masks.counts(ticket.mask), ""
    layers = masks.layer_counts(ticket.mask)
    theirs = [layers[name] for name in layers if not name.endswith("/shortcut")]
    kept, total = map(sum, zip(*theirs, strict=True))
    return kept, total, f", without {len(layers) - len(theirs)} projections for {NO_WEIGHTS}"


def names(text: str) -> Names:
    """Return `order`, or a `table`."""
    return "order" if text == "order" else table(text)


def table(text: str) -> dict[str, str]:
    """Return the pairs of a text such as `dense1=fc1,head=fc`, or of a JSON file.

    Raises:
        argparse.ArgumentTypeError: there are none; argparse adds the name of the option.

    >>> table("dense1=fc1,block1/conv=layer1.0.conv1")
    {'dense1': 'fc1', 'block1/conv': 'layer1.0.conv1'}
    """
    if text.endswith(".json"):
        return _table_of(text)
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(here and there for here, _, there in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not like dense1=fc1,dense2=fc2")
    return {here: there for here, _, there in pairs}


def _table_of(file: str) -> dict[str, str]:
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{file}: can't be read as JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise argparse.ArgumentTypeError(
            f'{file}: is not a JSON object of names, such as {{"dense1": "fc1"}}'
        )
    return found


def images(text: str) -> dict[str, Image]:
    """Return the heights and widths of a text such as `dense1=7x7`, or of a JSON file.

    Raises:
        argparse.ArgumentTypeError: there are none; argparse adds the name of the option.
    """
    found = {}
    for layer, size in table(text).items():
        if not (match := re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", size)):
            raise argparse.ArgumentTypeError(f"{size[:20]!r} is not like 7x7")
        found[layer] = (int(match[1]), int(match[2]))
    return found


def _numbers(kind: Callable[[str], float]) -> Callable[[str], list[float]]:
    def parse(text: str) -> list[float]:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = "numbers, with commas between"  # argparse puts it into its message
    return parse
