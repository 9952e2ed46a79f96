"""Tickets from and for PyTorch: state dicts in the layouts of torchvision, timm or one's own.

`checkpoints.py` reads files; `fitting.py` fits what they hold to a network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lottery_jax import __version__
from lottery_jax.errors import ConfigError, TicketError, lookup
from lottery_jax.leaves import by_path, prunable_paths
from lottery_jax.models import MODELS
from lottery_jax.models.network import Network, as_network
from lottery_jax.pruning import masks
from lottery_jax.system.files import atomic_write
from lottery_jax.tickets.checkpoints import import_torch, read_checkpoint
from lottery_jax.tickets.fitting import Fitted, Names, StateDict, Target, fit, from_flax, to_flax
from lottery_jax.tickets.layouts import Image, Layout, check_layers, layer_kinds, layout_of
from lottery_jax.tickets.ticket import Ticket, check_finite, complete, is_own_network
from lottery_jax.types import PyTree

__all__ = ["WEIGHTS", "export_pytorch", "from_flax", "import_pytorch", "read_checkpoint", "to_flax"]

WEIGHTS = ("trained", "start", "mask")


def import_pytorch(
    path: str | os.PathLike[str],
    model: Mapping[str, Any],
    *,
    data: str,
    input_shape: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    start: str | os.PathLike[str] | None = None,
    allow_nonfinite: bool = False,
    network: nn.Module | Network | None = None,
    names: Names = None,
    flatten: Mapping[str, Image] | None = None,
) -> Ticket:
    """Make a ticket of a PyTorch file of trained weights.

    Its mask is the one in the file: of `torch.nn.utils.prune`, or an entry beside the weights. A
    kernel without a mask keeps the weights that are not zero.

    Args:
        path: a state dict or a checkpoint.
        model: the options of the network: `name`, and `stem` for a ResNet. The name may be the
            import path, which is given the number of rows of the output layer.
        data: the name of the data set it was trained on.
        input_shape: (height, width, channels).
        mean: the mean of each channel with which pixels, from 0 to 1, were normalised.
        std: the standard deviation of each channel, on the same scale.
        start: a file of the weights to start from; by default the trained ones stand for them.
        allow_nonfinite: whether to load weights and statistics that are NaN or infinite.
        network: the network, if this package does not have it.
        names: the names there of modules by their paths here, such as `{"dense1": "fc1"}`, where
            they differ from the layout; or `order`, by which layers are paired in the order of calls
            here and of the file there. The layout of your own network is its own paths, with dots.
        flatten: (height, width) of the image that a dense layer takes flattened, by its path; one's
            own networks need it for dense layers after convolutions, `(1, 1)` if nothing moves.

    Returns:
        The complete ticket. Its metadata has `imported` in place of seed, level and control: the
        file, and what was recognised in it.

    Raises:
        ConfigError: no PyTorch layout is known for the network, or `names` or `flatten` don't fit.
        TicketError: a file can't be read or does not fit the network; names the tensor or mask.
    """
    shape = tuple(input_shape)
    is_ours = network is None and model["name"] in MODELS
    options = {"dtype": "float32", "width": 1.0, **model} if is_ours else dict(model)
    own = None if network is None else as_network(network, shape)
    target = Target(options, shape, own, names, flatten)
    fitted = _read(path, target, allow_nonfinite)
    trained, given, recognised, facts = fitted[:4]
    kinds = {"layer_kinds": fitted.kinds} if fitted.kinds else {}
    kept = {n: given.get(n, k != 0.0) for n, k in masks.kernels(trained["params"]).items()}
    mask = masks.with_kernels(masks.ones_like(trained["params"]), kept)
    first = trained
    if start is not None:
        first, others, _, of_start = _read(start, target, allow_nonfinite)[:4]
        for name, other in others.items():
            if (kept[name] & ~other).any():
                raise TicketError(f"{start}: its mask of {name} prunes weights that {path} keeps")
        if of_start.classes != facts.classes:
            raise TicketError(f"{start}: has another number of classes than {path}")
    metadata = {
        "model": options,
        "num_classes": facts.classes,
        "input_shape": list(shape),
        "layer_order": list(facts.layer_order),
        **kinds,
        "data": data,
        "mean": list(mean),
        "std": list(std),
        "imported": {
            "file": Path(path).name,
            "sha256": _file_hash(path),
            "start": "the trained weights" if start is None else Path(start).name,
            **recognised,
        },
        "lottery_jax_version": __version__,
        "result": {},
    }
    ticket = Ticket(
        mask=mask,
        params=_masked(mask, first["params"]),
        batch_stats=first["batch_stats"],
        trained=_masked(mask, trained["params"]),
        trained_batch_stats=trained["batch_stats"],
        metadata=metadata,
    )
    return complete(path, ticket)


def _masked(mask: PyTree, params: PyTree) -> PyTree:
    # A product with a mask leaves -0.0 for negative weights; a ticket has +0.0.
    return jax.tree.map(lambda m, p: np.where(m, p, np.float32(0.0)), mask, params)


def _read(path: str | os.PathLike[str], target: Target, allow_nonfinite: bool) -> Fitted:
    checkpoint = read_checkpoint(path)
    try:
        fitted = fit(checkpoint, target)
    except TicketError as error:
        raise TicketError(f"{path}: {error}") from error
    for part, names in fitted.names.items():
        arrays = by_path(fitted.variables[part])
        by_name = {torch_name: arrays[p] for p, torch_name in names.items()}
        check_finite(path, by_name, allow_nonfinite=allow_nonfinite)
    return fitted


def _file_hash(path: str | os.PathLike[str]) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def export_pytorch(
    path: str | os.PathLike[str],
    ticket: Ticket,
    weights: str = "trained",
    *,
    prune_format: bool = False,
    names: Mapping[str, str] | None = None,
    flatten: Mapping[str, Image] | None = None,
    network: nn.Module | Network | None = None,
) -> None:
    """Write a ticket's weights as a state dict for `torch.load`; replace what is there.

    Args:
        path: the file to write.
        ticket: a trained ticket.
        weights: `trained`; `start` for the weights to start from; or `mask`: bool, True where a
            weight remains, by the names of the weights.
        prune_format: whether to write the mask, too, as `torch.nn.utils.prune` does: `weight_orig`
            and `weight_mask` in place of each kernel's `weight`.
        names: the names there of modules by their paths here, where they differ from the layout.
        flatten: as in `import_pytorch`.
        network: the network, if it is one of your own and the metadata has no `layer_kinds`, as that
            of a ticket from your own loop. Without either, its layers are taken for Dense and Conv.

    Raises:
        ConfigError: `names` or `flatten` do not fit the network, or `flatten` is needed; PyTorch stores
            the kernel of a layer in another layout; or a mask should be written with itself.
        TicketError: PyTorch is not installed.
    """
    if prune_format and weights == "mask":
        raise ConfigError("weights: a mask is written beside weights, trained or start")
    variables = {"trained": ticket.trained_variables, "start": ticket.variables,
                 "mask": {"params": ticket.mask, "batch_stats": {}}}  # fmt: skip
    chosen = lookup(variables, weights, "weights")
    name, shape = str(ticket.metadata["model"].get("name")), ticket.metadata["input_shape"]
    kinds = ticket.metadata.get("layer_kinds", {})
    if network is not None:
        kinds = layer_kinds(as_network(network, tuple(shape)))
    check_layers(chosen["params"], kinds if is_own_network(ticket.metadata) else {})
    order = ticket.metadata["layer_order"]
    layout = layout_of(chosen, name, shape, order, names=names, flatten=flatten)
    state = from_flax(chosen, name, shape, layout)
    if prune_format:
        state = _in_prune_format(state, ticket.mask, layout)
    torch = import_torch(path)
    with atomic_write(path) as temporary:
        torch.save(
            {key: torch.from_numpy(np.array(value)) for key, value in state.items()}, temporary
        )


def _in_prune_format(state: StateDict, mask: PyTree, layout: Layout) -> StateDict:
    """Return a state dict with `weight_orig` and `weight_mask` in place of the pruned weights."""
    names = layout.names({"params": mask, "batch_stats": {}})["params"]
    kept = by_path(mask)
    pruned = {names[path]: layout.to_torch(path, kept[path]) for path in prunable_paths(mask)}
    return {
        **{key: value for key, value in state.items() if key not in pruned},
        **{f"{key}_orig": state[key] for key in pruned},
        **{f"{key}_mask": value.astype(np.float32) for key, value in pruned.items()},
    }
