"""Measure a saved ticket: the fraction of pruned weights and the test accuracy.

python -m lottery_jax.evaluate --ticket=runs/quickstart-1a2b3c4d/seed_0/level_09/ticket
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lottery_jax.datasets.dataset import Dataset
from lottery_jax.datasets.streams import Stream
from lottery_jax.errors import DataError
from lottery_jax.models.network import LinenNetwork
from lottery_jax.parallel.mesh import make_mesh, to_mesh
from lottery_jax.pruning import masks
from lottery_jax.system import settings
from lottery_jax.system.command_line import CommandParser, exit_status, path_argument
from lottery_jax.tickets import Ticket, load_ticket, model_of
from lottery_jax.training.batches import make_preprocess
from lottery_jax.training.evaluation import evaluate, make_eval_pass
from lottery_jax.training.feeding import InputPipeline, open_data
from lottery_jax.training.program import compiled
from lottery_jax.training.state import EvalMetrics
from lottery_jax.training.task import CLASSIFICATION


@settings.fixed()
def evaluate_ticket(
    ticket: Ticket, data_dir: str | Path = "", *, data: str | Dataset = "", batch_size: int = 256
) -> EvalMetrics:
    """Measure the ticket's trained weights on a whole test set.

    Args:
        ticket: from `load_ticket`.
        data_dir: the folder of data sets; empty for the default one.
        data: the name of a data set, or a data set; empty for the one that the ticket was trained on.
        batch_size: rounded up to a multiple of the number of devices.

    Raises:
        DataError: the data can't be read, or has another number of classes than the ticket.
    """
    mesh = make_mesh()
    metadata = ticket.metadata
    network = LinenNetwork(*model_of(metadata))
    if isinstance(data, Dataset):
        dataset: Dataset | Stream = data.fitted(network.input_shape)
    else:
        dataset = open_data(
            data or metadata["data"],
            data_dir,
            input_shape=network.input_shape,
            resize=metadata.get("resize", "pad"),  # as in training
        )
    if dataset.num_classes != metadata["num_classes"]:
        raise DataError(
            f"{dataset.name} has {dataset.num_classes} classes, the ticket "
            f"{metadata['num_classes']}"
        )
    # Pixels are scaled as in training, whatever data set they come from.
    preprocess = make_preprocess(tuple(metadata["mean"]), tuple(metadata["std"]), "none")
    eval_pass = compiled(make_eval_pass(network, CLASSIFICATION, preprocess, mesh), mesh)
    variables = to_mesh(mesh, ticket.trained_variables)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    test = InputPipeline(dataset, mesh, batch_size, augment="none", workers=-1).test()
    return evaluate(eval_pass, batch_size, variables["params"], variables["batch_stats"], test)


def show(path: Path, data_dir: str, data: str, *, layers: bool) -> None:
    """Print a ticket's sparsity, accuracy and loss, and its layers if asked."""
    ticket = load_ticket(path)
    measured = evaluate_ticket(ticket, data_dir, data=data)
    kept, total = masks.counts(ticket.mask)
    print(f"pruned   {1 - kept / total:.2%} of the prunable weights ({total - kept} of {total})")
    print(f"accuracy {measured.accuracy:.2%} on the test set of {data or ticket.metadata['data']}")
    print(f"loss     {measured.loss:.4f}")
    if layers:
        table = Table("layer", "remaining", "of", "density")
        counts = masks.layer_counts(ticket.mask)
        for name in ticket.metadata["layer_order"]:
            remaining, size = counts[name]
            table.add_row(name, str(remaining), str(size), f"{remaining / size:.2%}")
        Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = CommandParser(
        prog="python -m lottery_jax.evaluate",
        description="Print the fraction of pruned weights and the test accuracy of a ticket.",
    )
    parser.add_argument("--ticket", required=True, type=path_argument, help="a ticket directory")
    parser.add_argument(
        "--data_dir", default="", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets"
    )
    parser.add_argument("--data", default="", help="another data set than the ticket's own")
    parser.add_argument("--layers", action="store_true", help="also list every layer")
    args = parser.parse_args(argv)
    return exit_status(lambda: show(args.ticket, args.data_dir, args.data, layers=args.layers))


if __name__ == "__main__":
    sys.exit(main())
