"""The result of a trial: its ticket, and what a user should be told of it."""

from __future__ import annotations

import math
from typing import Any

import jax

from lottery_jax import __version__
from lottery_jax import config as configuration
from lottery_jax.curve import ACCURACY
from lottery_jax.pruning import masks
from lottery_jax.runs import parts
from lottery_jax.runs.directory import Row
from lottery_jax.runs.experiment import Experiment
from lottery_jax.runs.metrics import EVALUATION, KIND, UNTRAINED
from lottery_jax.runs.trials import TrainedTrial
from lottery_jax.tickets import Ticket
from lottery_jax.types import PyTree

_UNMOVED = 0.01  # a loss that stays this close to chance, relatively, has not moved


def make_ticket(
    experiment: Experiment, result: TrainedTrial, rewind_step: int | None, found_by: dict[str, Any]
) -> Ticket:
    """Return the ticket of a trial that was trained to its end.

    Args:
        experiment: the run's experiment.
        result: the trained trial.
        rewind_step: the rewind point of the ladder, from which winning tickets have their weights.
        found_by: the data, optimizer and config that found the mask in the first place.
    """
    ticket, state = result.pending.ticket, result.state
    trial, config, dataset = result.pending.trial, experiment.config, experiment.dataset
    # Left out where it is the default: so the metadata of other tickets stay as they were.
    resize = {} if config.data.resize == "pad" else {"resize": config.data.resize}
    retrain = config.ladder.retrain
    last = result.rows[-1]
    metric = f"test_{experiment.program.task.metric}"
    return Ticket(
        mask=state.mask,  # that of the checkpoint, if there was one
        params=jax.device_get(masks.apply(state.mask, ticket.variables["params"])),
        batch_stats=jax.device_get(ticket.variables["batch_stats"]),
        trained=state.params,
        trained_batch_stats=state.batch_stats,
        metadata={
            "model": experiment.model_options,
            "num_classes": dataset.num_classes,
            "input_shape": list(dataset.image_shape),
            **resize,
            **parts.task_options(config),
            "layer_order": list(experiment.layers),
            **({"layer_kinds": experiment.layer_kinds} if experiment.layer_kinds else {}),
            "data": dataset.name,
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "seed": trial.seed,
            "level": trial.level,
            "control": trial.control,
            "method": {
                "draw": config.ladder.draw,
                "scores": config.ladder.scores,
                "scope": config.ladder.scope,
                **({} if retrain == "weights" else {"retrain": retrain}),
            },
            "rewind_step": rewind_step,
            "start_step": ticket.step,
            "optimizer": experiment.optimizer_options,
            "found_by": found_by,
            "config_fingerprint": configuration.fingerprint(config),
            "lottery_jax_version": __version__,
            "result": {
                metric: last[metric],
                "test_loss": last["test_loss"],
                "train_loss": last["train_loss"],
                "epochs": last["epoch"],
                "seconds": sum(row["seconds"] for row in result.rows),
                **_evaluated(result, experiment.program.task.metric),
            },
        },
    )


def _evaluated(result: TrainedTrial, metric: str) -> dict[str, Any]:
    """Return what evaluations between epochs have found, if the config asks for them.

    The step of early stopping is that of the smallest validation loss, the earliest one on ties
    (Frankle & Carbin 2019). It is counted from the start of the training.
    """
    found: dict[str, Any] = {}
    steps = [row for row in result.evaluations if row[KIND] == EVALUATION]
    if steps:
        # A loss that is not a number is no smallest one.
        best = min(steps, key=lambda r: (not r["val_loss"] < math.inf, r["val_loss"], r["step"]))
        found["early_stop_step"] = best["step"] - result.pending.first_step
        found[f"early_stop_{metric}"] = best[f"test_{metric}"]
    for row in result.evaluations:
        if row[KIND] == UNTRAINED:
            found[f"untrained_{metric}"] = row[f"test_{metric}"]
    return found


def collapse_warning(mask: PyTree) -> str:
    """Return a warning of layers that have no weight left; empty where all have some."""
    empty = masks.collapsed_layers(mask)
    if not empty:
        return ""
    return (
        f"no weight is left in {', '.join(empty)}; unless a shortcut leads around it, the output no "
        "longer depends on the input"
    )


def chance_warning(experiment: Experiment, rows: list[Row]) -> str:
    """Return a warning of a dense network that has learned nothing, with likely causes; empty if it has."""
    dataset, task = experiment.dataset, experiment.program.task
    if task.metric != ACCURACY or dataset.chance is None:
        return ""
    signs = signs_of_chance(rows, dataset.num_classes, dataset.chance)
    if not signs:
        return ""
    images = "the scale of the images"
    if dataset.padded:
        images += " and the black they were padded with (try config.data.resize=bilinear)"
    return (
        f"the dense network has learned nothing: {signs}; check config.optimizer.learning_rate, "
        f"{images}, and whether labels belong to their images"
    )


def signs_of_chance(rows: list[Row], num_classes: int, chance: float) -> str:
    """Return what shows that a training has led to nothing; empty if the network has learned.

    Args:
        rows: one for each epoch; the last one with the test accuracy at the end.
        num_classes: a network that knows nothing has a loss of its logarithm.
        chance: the test accuracy that a network that knows nothing can reach.
    """
    accuracy, unlearned = rows[-1]["test_accuracy"], math.log(num_classes)
    if accuracy <= chance:
        return f"its test accuracy of {accuracy:.1%} is no better than chance (up to {chance:.1%})"
    if all(abs(row["train_loss"] - unlearned) <= _UNMOVED * unlearned for row in rows):
        return f"its training loss has stayed at ln({num_classes}) = {unlearned:.2f}"
    return ""
