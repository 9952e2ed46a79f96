"""Measure a saved ticket: the fraction of pruned weights and the test accuracy.

    python -m lottery_jax.evaluate --ticket=runs/quickstart-1a2b3c4d/seed_0/level_09/ticket
    python -m lottery_jax.evaluate --ticket=theirs.pth --model=vgg19 --data=cifar10

The mask of a PyTorch file is the one in it, or else what is not zero. Its images are normalised as
this package normalises those of the data set, unless --mean and --std say otherwise. With --epoch
the weights are those after an epoch of the training that config.train.keep_epochs kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
from rich.table import Table

from lottery_jax.curve import metric_of, show_metric
from lottery_jax.datasets.dataset import Dataset
from lottery_jax.datasets.streams import Stream
from lottery_jax.errors import ConfigError, DataError, TicketError
from lottery_jax.leaves import by_path
from lottery_jax.models import MODELS
from lottery_jax.models.network import LinenNetwork, Network, as_network
from lottery_jax.models.networks import from_import_path
from lottery_jax.parallel.mesh import make_mesh, to_mesh
from lottery_jax.pruning import masks
from lottery_jax.system import settings
from lottery_jax.system.command_line import CommandParser, exit_status
from lottery_jax.system.terminal import print_plain
from lottery_jax.tickets import (
    Ticket,
    load_epoch,
    load_ticket,
    model_of,
    read_metadata,
    torch_options,
)
from lottery_jax.tickets.addresses import local_ticket, ticket_argument
from lottery_jax.tickets.metadata import Metadata
from lottery_jax.tickets.ticket import compare_leaves, is_own_network
from lottery_jax.training import tasks
from lottery_jax.training.batches import make_preprocess
from lottery_jax.training.evaluation import evaluate, make_eval_pass
from lottery_jax.training.feeding import InputPipeline, input_dtype, open_data
from lottery_jax.training.program import compiled
from lottery_jax.training.state import EvalMetrics
from lottery_jax.training.task import Task


@settings.fixed()
def evaluate_ticket(
    ticket: Ticket,
    data_dir: str | Path = "",
    *,
    data: str | Dataset = "",
    batch_size: int = 256,
    model: nn.Module | Network | None = None,
    task: Task | None = None,
) -> EvalMetrics:
    """Measure the ticket's trained weights on a whole test set.

    Args:
        ticket: from `load_ticket`.
        data_dir: the folder of data sets; empty for the default one.
        data: the name of a data set, or one in memory; empty for the one that the ticket was
            trained on.
        batch_size: rounded up to a multiple of the number of devices.
        model: the network, if this package does not have it.
        task: the task, if this package does not have it.

    Raises:
        DataError: the data can't be read, or have another number of classes than the ticket.
        TicketError: the network or the task is needed, or does not fit the ticket.
    """
    mesh = make_mesh()
    metadata = ticket.metadata
    shape = tuple(metadata["input_shape"])
    if isinstance(data, str):
        dataset: Dataset | Stream = open_data(
            data or metadata["data"],
            data_dir,
            input_shape=shape,
            resize=metadata.get("resize", "pad"),  # as in training
        )
    else:
        dataset = data.fitted(shape)
    network, task = _network_of(ticket, dataset, model), task or _task_of(metadata)
    if dataset.num_classes != metadata["num_classes"]:
        raise DataError(
            f"{dataset.name} has {dataset.num_classes} classes, the ticket "
            f"{metadata['num_classes']}"
        )
    # Pixels are scaled as in training, whatever data set they come from.
    preprocess = make_preprocess(tuple(metadata["mean"]), tuple(metadata["std"]), "none")
    eval_pass = compiled(make_eval_pass(network, task, preprocess, mesh), mesh)
    variables = to_mesh(mesh, ticket.trained_variables)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    test = InputPipeline(dataset, mesh, batch_size, augment="none", workers=-1).test()
    return evaluate(eval_pass, batch_size, variables["params"], variables["batch_stats"], test)


def _network_of(
    ticket: Ticket, dataset: Dataset | Stream, model: nn.Module | Network | None
) -> Network:
    """Return the network of a ticket, which is the given one if there is one."""
    metadata = ticket.metadata
    if model is None:
        if is_own_network(metadata):
            raise TicketError(
                f"the ticket is of the network {metadata['model'].get('name')}, which this package "
                "does not have; pass model=..., or --model=package.module:Class on the command line"
            )
        return LinenNetwork(*model_of(metadata))
    network = as_network(model, tuple(dataset.image_shape), input_dtype(dataset))
    compare_leaves(
        "the ticket", by_path(ticket.params), by_path(network.abstract_variables()["params"])
    )
    return network


def _task_of(metadata: Metadata) -> Task:
    options = metadata.get("task") or {"name": "classification"}
    if options.get("name") not in tasks.TASKS:
        raise TicketError(
            f"the ticket is of the task {options.get('name')}, which this package does not have; "
            "pass task=..., or --task=package.module:function on the command line"
        )
    return tasks.from_config(**options)


def _read(args: argparse.Namespace) -> tuple[Ticket, str | Dataset]:
    """Return the ticket that the command line names, perhaps a PyTorch file, and its data."""
    if torch_options.is_pytorch(args.ticket):
        if args.epoch is not None:
            raise ConfigError("--epoch: is for the tickets of a run")
        if not (args.model and args.data):
            raise ConfigError(
                f"{args.ticket}: is not a ticket; for a PyTorch file give --model and --data"
            )
        torch_options.check(args)
        if not args.ticket.is_file():  # said before the data are read
            raise TicketError(f"{args.ticket}: is not a file")
        shape = tuple(args.input_shape or ())
        data = open_data(args.data, args.data_dir, input_shape=shape)
        pixels = torch_options.Pixels(tuple(data.image_shape), data.mean, data.std)
        # A stream has read nothing yet; it is opened again.
        opened = data if isinstance(data, Dataset) else args.data
        return torch_options.read(args.ticket, args, pixels), opened
    if given := torch_options.given(args):
        raise ConfigError(f"--{given[0]}: is for PyTorch files; {args.ticket} is not one")
    epoch = args.epoch
    return load_ticket(args.ticket) if epoch is None else load_epoch(args.ticket, epoch), args.data


def show(args: argparse.Namespace) -> None:
    """Print a ticket's sparsity, accuracy and loss, perhaps after a kept epoch, and its layers."""
    model, task = args.model, args.task
    args.ticket = local_ticket(args.ticket)  # an address is fetched once
    ticket, data = _read(args)
    metadata = ticket.metadata
    is_foreign = torch_options.is_pytorch(args.ticket)
    measured = evaluate_ticket(
        ticket,
        args.data_dir,
        data=data,
        model=_own_model(model, metadata)
        if model and not (is_foreign and model in MODELS)
        else None,
        task=tasks.from_config(task, (metadata.get("task") or {}).get("options", ""))
        if task
        else None,
    )
    # An epoch of a training has no result of its own.
    metric = metric_of((metadata if is_foreign else read_metadata(args.ticket)).get("result") or {})
    kept, total, left_out = torch_options.counts(ticket)
    of_all = f"of the prunable weights ({total - kept} of {total})"
    print(f"pruned   {1 - kept / total:.2%} {of_all}{left_out}")
    value = show_metric(float(measured.accuracy), metric).removeprefix(f"{metric} ")
    print(f"{metric:8} {value} on the test set of {args.data or metadata['data']}")
    print(f"loss     {measured.loss:.4f}")
    if is_foreign:
        print(f"mask     {metadata['imported']['mask']}")
        print(f"images   {torch_options.normalisation(args, ticket, 'those of the data set')}")
    if args.layers:
        table = Table("layer", "remaining", "of", "density")
        counts = masks.layer_counts(ticket.mask)
        for name in ticket.metadata["layer_order"]:
            remaining, size = counts[name]
            table.add_row(name, str(remaining), str(size), f"{remaining / size:.2%}")
        print_plain(table)


def _own_model(path: str, metadata: Metadata) -> Network:
    """Return the network that the user names; the ticket says with which options it was made."""
    options = str(metadata["model"].get("options", ""))
    return from_import_path(path, options, metadata["num_classes"], what="--model")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = CommandParser(
        prog="python -m lottery_jax.evaluate",
        description="Print the fraction of pruned weights and the test accuracy of a ticket.",
    )
    parser.add_argument(
        "--ticket", required=True, type=ticket_argument, metavar="TICKET",
        help="a ticket directory, a portable file, zoo://NAME, hf://USER/REPO or a PyTorch file",
    )  # fmt: skip
    parser.add_argument(
        "--data_dir", default="", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets"
    )
    parser.add_argument("--data", default="", help="another data set than the ticket's own")
    parser.add_argument(
        "--model", default="", help="the ticket's network if it is your own: package.module:Class; "
        "for a PyTorch file, the name of any network: vgg19",
    )  # fmt: skip
    parser.add_argument(
        "--task", default="", help="the ticket's task if it is your own: package.module:function"
    )
    parser.add_argument(
        "--epoch", type=int, help="measure the weights after this epoch (config.train.keep_epochs)"
    )
    parser.add_argument("--layers", action="store_true", help="also list every layer")
    torch_options.add_options(
        parser.add_argument_group("for a PyTorch file; by default images are those of the data")
    )
    args = parser.parse_args(argv)
    return exit_status(lambda: show(args))


if __name__ == "__main__":
    sys.exit(main())
