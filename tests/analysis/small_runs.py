"""Run directories of small tickets that were never trained."""

from ml_collections import ConfigDict

from lottery_jax import tickets
from lottery_jax.curve import WINNING
from lottery_jax.runs import record
from lottery_jax.runs.directory import Trial
from tests.helpers import make_tiny_config, synthetic_ticket

SHAPE = (2, 2, 1)


def write_run(folder, drawn, seeds=(0, 1), controls=(), levels=1) -> ConfigDict:
    """A run directory of tickets that were never trained: `drawn(seed, level, control)`."""
    config = make_tiny_config(
        **{"seeds": seeds, "controls": controls, "ladder.levels": levels, "model.width": 0.02}
    )
    record.record_config(folder, config)
    for seed in seeds:
        for level in range(levels + 1):
            for control in (WINNING, *(controls if level else ())):
                tickets.save_ticket(
                    Trial(folder, seed, level, control).ticket_dir, drawn(seed, level, control)
                )
    return config


def lenet(density, seed=0):
    """LeNet of 6 and 2 units on 4 pixels: 24 + 12 + 20 weights."""
    return synthetic_ticket("lenet_300_100", SHAPE, density, seed=seed, width=0.02)


def set_mask(ticket, **layers):
    """Give a ticket's layers these masks, and the weights that go with them."""
    for name, kept in layers.items():
        ticket.mask[name]["kernel"][...] = kept
        for tree in (ticket.params, ticket.trained):
            tree[name]["kernel"][~ticket.mask[name]["kernel"]] = 0
    return ticket
