"""A ticket's metadata: one table of the keys, from which they are checked, shown and documented."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import PurePath
from reprlib import repr as short_repr  # shortens whatever a file holds, however deep
from typing import Any, NamedTuple

from lottery_jax.errors import TicketError

Metadata = dict[str, Any]
PathLike = str | os.PathLike[str]

FORMAT_VERSION = 1
PARTS = ("mask", "params", "batch_stats", "trained", "trained_batch_stats")
_HASHES = (*PARTS, "metadata")
# The numbers of an image of 2048 x 2048 in colour, and some. Connectivity runs the network on one
# image, and a convolution takes an image of any size.
_LARGEST_IMAGE = 2**24
_MOST_AXES = 8
_MOST_AXES_OF_LEAF = 32  # NumPy has at most 64


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(v) in (int, float) and abs(v) <= sys.float_info.max for v in value
    )


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 1 <= len(value) <= _MOST_AXES
        and all(type(n) is int and n > 0 for n in value)
        and math.prod(value) <= _LARGEST_IMAGE
    )


def _is_data_name(value: Any) -> bool:
    """Return whether a value is the name of a file below the folder of the data sets."""
    if not isinstance(value, str) or "\0" in value:
        return False
    path = PurePath(value)
    return not path.is_absolute() and ".." not in path.parts


def _is_task(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name in ("name", "options") and isinstance(text, str) for name, text in value.items()
    )


_DTYPES = {"float32", "float16", "bfloat16", "int32", "uint32", "uint8", "bool"}


def _is_leaves(value: Any) -> bool:
    """Return whether a value has the dtype and shape of each leaf, by path, for two trees."""

    def is_leaf(path: str, leaf: Any) -> bool:
        return (
            all(path.split("/"))
            and isinstance(leaf, list)
            and len(leaf) == 2
            and isinstance(leaf[0], str)
            and leaf[0] in _DTYPES
            and isinstance(leaf[1], list)
            and len(leaf[1]) <= _MOST_AXES_OF_LEAF
            and all(type(n) is int and n >= 0 for n in leaf[1])
            # An array without numbers takes no room in a file, but NumPy multiplies its axes.
            and (0 not in leaf[1] or math.prod(n or 1 for n in leaf[1]) < 2**40)
        )

    return (
        isinstance(value, dict)
        and value.keys() == {"params", "batch_stats"}
        and all(isinstance(tree, dict) for tree in value.values())
        and all(is_leaf(*item) for tree in value.values() for item in tree.items())
    )


class Key(NamedTuple):
    """A key of the metadata.

    Attributes:
        meaning: what its value says.
        type: the type of its value, in words.
        writers: who writes it: `maker` is whoever makes a ticket, which can't be saved without the
            key; `save` is `save_ticket`; `run` and `import` are those of this package.
        label: the name of its line in `tickets show`; empty if it has none.
        fits: whether loading accepts a value; None: loading does not look at it.
    """

    meaning: str
    type: str
    writers: tuple[str, ...]
    label: str = ""
    fits: Callable[[Any], bool] | None = None

    @property
    def is_required(self) -> bool:
        """Whether a ticket can't be loaded, shown and measured without it."""
        return "maker" in self.writers

    @property
    def is_universal(self) -> bool:
        """Whether every ticket has it."""
        return self.is_required or "save" in self.writers


_MAKER, _SAVE, _RUN, _BOTH = ("maker",), ("save",), ("run",), ("run", "import")

# In the order in which `tickets show` and the documentation list them.
KEYS = {
    "model": Key("the network, as `build_model` takes it: `name`, `width`, `dtype` and others",
                 "object", _MAKER, "network", lambda value: isinstance(value, dict)),
    "num_classes": Key("the outputs of the network", "integer", _MAKER, "classes",
                       lambda value: type(value) is int),
    "input_shape": Key("the shape of one example: height, width and channels of an image",
                       "integers", _MAKER, "images", _is_shape),
    "resize": Key("how smaller images are adapted; absent for `pad`", "`pad` or `bilinear`", _RUN,
                  "resize", lambda value: value in ("pad", "bilinear")),
    "data": Key("the data set it was trained on", "text", _MAKER, "data", _is_data_name),
    "mean": Key("the mean of each channel, as pixel value / 255, by which images are normalised",
                "numbers", _MAKER, fits=_is_numbers),
    "std": Key("the standard deviation of each channel, on the same scale", "numbers", _MAKER,
               fits=_is_numbers),
    "weights_total": Key("prunable weights", "integer", _SAVE, "parameters"),
    "weights_remaining": Key("prunable weights that the mask keeps", "integer", _SAVE),
    "density": Key("the share of the prunable weights that the mask keeps", "number", _SAVE, "density"),
    "task": Key("what it was trained for: `name` and `options`; absent for classification", "object",
                _RUN, "task", _is_task),
    "result": Key("the measurements: `test_accuracy` (or another task's metric), `test_loss`, "
                  "`train_loss`, `epochs` and `seconds`; perhaps `early_stop_step`, "
                  "`early_stop_accuracy` and `untrained_accuracy`; empty after an import", "object", _BOTH,
                  "accuracy"),
    "seed": Key("the seed of the training", "integer", _RUN, "seed"),
    "level": Key("the level of the ladder, from 0, the unpruned network", "integer", _RUN, "level"),
    "control": Key("`winning`, or the name of the control", "text", _RUN, "control"),
    "rewind_step": Key("the rewind point of the ladder. Winning tickets start from its weights, and so do "
                       "the controls shuffle_layers, shuffle_global, dense_sign (their signs), noise and "
                       "noise_NUMBER (with noise), resample (redrawn), invert and smart_ratio; aligned "
                       "and unaligned start from those of another initialisation at that step; the "
                       "others do not", "integer", _RUN, "rewind step"),
    "start_step": Key("the step of the schedule at which training began: 0 for controls with new or "
                      "initial weights and with `ladder.schedule=restart`; the target's rewind step "
                      "for a transferred ticket. With `ladder.retrain=finetune` the steps of levels from 1 "
                      "on come after those of a whole training", "integer", _RUN),
    "optimizer": Key("the optimizer it was trained with", "object", _RUN, "optimizer"),
    "found_by": Key("what found the mask: `data`, `optimizer` and `config_fingerprint`; and "
                    "`pretrained`, if the rewind point is from elsewhere: its `data`, `seed` and "
                    "`params_sha256`", "object",
                    _RUN, "found by"),
    "method": Key("how the mask was drawn: `draw`, `scores` and `scope`; and `retrain` (`lr` or "
                  "`finetune`), if levels from 1 on start from trained weights", "object", _RUN, "method"),
    "imported": Key("the PyTorch file: `file`, its `sha256`, the `start` file, and what was recognised "
                    "(`wrapping`, `converted_from`, `mask`)", "object", ("import",), "imported"),
    "compacted": Key("of a smaller network that `tickets compact` made: `units` that are left and of all, "
                     "`weights_remaining` before, how many constants were `folded`, and whether it is "
                     "`trainable` in place of the larger one", "object", ("compact",), "compacted"),
    "config_fingerprint": Key("the hash of the run's config", "text", _RUN, "config"),
    "lottery_jax_version": Key("the version of this package", "text", _BOTH, "made with"),
    "sha256": Key("the hash of each part and of the metadata itself", "object", _SAVE, "sha256"),
    "layer_order": Key("the layers from input to output", "texts", _MAKER, fits=_is_names),
    "layer_kinds": Key("of a network that this package does not have: the class of each layer with a "
                       "kernel by its path, such as `Conv`; an export for PyTorch needs it", "object",
                       ("own_run",), fits=_is_texts),
    "leaves": Key("of a network that this package does not have: for `params` and `batch_stats`, the "
                  "dtype and the shape of each array by its path", "object", ("own",), fits=_is_leaves),
    "layers": Key("for each layer, the number of weights that remain and of all", "object", _SAVE),
    "format_version": Key(f"the version of the format: {FORMAT_VERSION}", "integer", _SAVE),
}  # fmt: skip


def markdown_table() -> str:
    """Return the table of keys as docs/tickets.md has it."""
    writers = {"maker": "the maker (required)", "save": "`save_ticket`", "run": "a run",
               "import": "an import",
               "compact": "`tickets compact`",
               "own": "`save_ticket`, of a network of your own",
               "own_run": "a run or an import, of a network of your own"}  # fmt: skip
    rows = ["| key | type | meaning | written by |", "|---|---|---|---|"]
    for name, key in KEYS.items():
        by = ", ".join(writers[writer] for writer in key.writers)
        rows.append(f"| `{name}` | {key.type} | {key.meaning} | {by} |")
    return "\n".join(rows) + "\n"


def missing_keys(metadata: Metadata) -> list[str]:
    """List the required keys that metadata lacks."""
    return [name for name, key in KEYS.items() if key.is_required and name not in metadata]


def check_metadata(where: PathLike, metadata: Any) -> Metadata:
    """Return `metadata`, as parsed from JSON, if it is that of a ticket.

    Raises:
        TicketError: it is of another version, lacks what loading needs, or was changed.
    """
    if not isinstance(metadata, dict) or "format_version" not in metadata:
        raise TicketError(f"{where}: can't be read as a ticket's metadata: it has no version")
    if (version := metadata["format_version"]) != FORMAT_VERSION:
        raise TicketError(
            f"{where}: has format {short_repr(version)}; this version reads {FORMAT_VERSION}"
        )
    if missing := missing_keys(metadata):
        raise TicketError(f"{where}: has no {', '.join(missing)}")
    if not _fits(metadata):
        raise TicketError(
            f"{where}: its metadata does not describe a model: a value has the wrong type or range"
        )
    hashes = metadata.get("sha256", {})
    if not isinstance(hashes, dict) or not hashes.keys() <= set(_HASHES):
        raise TicketError(
            f"{where}: its metadata is damaged: sha256 is not of {', '.join(_HASHES)}"
        )
    try:
        # Tickets of earlier versions have no such hash.
        intact = "metadata" not in hashes or hashes["metadata"] == metadata_hash(metadata)
    except (ValueError, RecursionError) as error:
        raise TicketError(f"{where}: its metadata is damaged: {error}") from error
    if not intact:
        raise TicketError(f"{where}: its metadata is damaged (its SHA-256 is not the recorded one)")
    return metadata


def _fits(metadata: Metadata) -> bool:
    """Return whether the values that loading looks at have the types and ranges they must have."""
    values = ((key.fits, metadata[name]) for name, key in KEYS.items() if name in metadata)
    if not all(fits is None or fits(value) for fits, value in values):
        return False
    shape, mean, std = (metadata[name] for name in ("input_shape", "mean", "std"))
    # One number for all features of a vector will do.
    return len(mean) == len(std) and len(mean) in ((1, *shape) if len(shape) == 1 else shape[-1:])


def metadata_hash(metadata: Metadata) -> str:
    """Return the SHA-256 of a ticket's metadata without this hash itself.

    The hash is that of JSON with sorted keys, ASCII alone and no spaces, so that neither the order
    of the keys nor the layout of a file matters.

    Raises:
        TypeError, ValueError, RecursionError: the metadata can't be written as JSON.

    >>> hashes = {"mask": "…", "metadata": "…"}
    >>> other = {"sha256": {"mask": "…"}, "data": "digits"}
    >>> metadata_hash({"data": "digits", "sha256": hashes}) == metadata_hash(other)
    True
    """
    hashed = {**metadata, "sha256": {k: v for k, v in metadata["sha256"].items() if k in PARTS}}
    # Read back first: JSON turns keys that are numbers into text, which sorts in another order.
    as_read = json.loads(json.dumps(hashed, allow_nan=False))
    text = json.dumps(as_read, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def parse_json(text: str) -> Any:
    """Parse JSON without NaN and infinities, however they are spelled.

    Raises:
        ValueError, RecursionError: the text is not such JSON.

    >>> parse_json('{"width": 1e999}')
    Traceback (most recent call last):
    ValueError: 1e999 is not a number that can be stored
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    def finite(text: str) -> float:
        if abs(value := float(text)) > sys.float_info.max:
            raise ValueError(f"{text} is not a number that can be stored")
        return value

    return json.loads(text, parse_constant=refuse, parse_float=finite)
