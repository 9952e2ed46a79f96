"""Alignment: another initialisation of a seed, and a seed's masks permuted to match it.

A mask was found in a network A, the run's own. Another network B of the same seed has other initial
weights and sees the same batches. It is trained once without a mask: the trial of level 0 named
`aligned`. Then the control `aligned` trains B from its rewind point with A's mask, whose units are
permuted to match B's, and `unaligned` with A's mask as it is (Adnan et al., ICML 2025).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import cache

import jax

from lottery_jax.curve import WINNING
from lottery_jax.models.network import Network
from lottery_jax.pruning.controls import ALIGNED
from lottery_jax.pruning.matching import match_units
from lottery_jax.pruning.permutations import Permutation, find_symmetry, permute
from lottery_jax.runs.experiment import Experiment
from lottery_jax.runs.origins import RewindPoint, reach_rewind_points
from lottery_jax.runs.store import RunStore
from lottery_jax.runs.trials import Keys
from lottery_jax.training.batches import make_preprocess
from lottery_jax.types import PyTree

# Units are matched by their activations on so many training examples, or on all if there are fewer.
EXAMPLES = 4096
_NAME = zlib.crc32(ALIGNED.encode())  # sets the keys apart from those that a seed uses elsewhere


def other_key(seed: int) -> jax.Array:
    """Return the key of a seed's other initialisation."""
    return jax.random.fold_in(Keys.of(seed).init, _NAME)


def with_others(
    experiment: Experiment, store: RunStore, points: Mapping[int, RewindPoint]
) -> dict[int, RewindPoint]:
    """Return the rewind points of seeds, each with that of the seed's other initialisation.

    The other networks are trained to the rewind step, or loaded. A run without the control
    `aligned` has none.
    """
    if ALIGNED not in experiment.config.controls:
        return dict(points)
    starts = {
        store.trial(seed, 0, ALIGNED): jax.device_get(experiment.init(other_key(seed)))
        for seed in points
    }
    others = reach_rewind_points(experiment, store, starts)
    return {
        trial.seed: points[trial.seed]._replace(
            other=other, align=make_align(experiment, store, trial.seed)
        )
        for trial, other in others.items()
    }


def make_align(experiment: Experiment, store: RunStore, seed: int) -> Callable[[PyTree], PyTree]:
    """Return the function that permutes a mask of a seed's own network to match the other one.

    Both trained dense networks are loaded when it is called first, so both must be complete then.
    """
    network = experiment.program.network
    symmetry = find_symmetry(network)

    @cache
    def permutations() -> dict[str, Permutation]:
        own, other = (
            store.load_ticket(store.trial(seed, 0, control).ticket_dir).trained_variables
            for control in (WINNING, ALIGNED)
        )
        return match_networks(experiment, network, own, other, seed)

    return lambda mask: permute(mask, symmetry, permutations())


def match_networks(
    experiment: Experiment, network: Network, a: PyTree, b: PyTree, seed: int
) -> dict[str, Permutation]:
    """Return `match_units` of two trained networks, on training examples that the seed chooses."""
    key = jax.random.fold_in(Keys.of(seed).score, _NAME)
    size = min(experiment.config.train.batch_size, experiment.dataset.num_train)
    batches = max(1, min(EXAMPLES, experiment.dataset.num_train) // size)
    preprocess = make_preprocess(experiment.dataset.mean, experiment.dataset.std, "none")
    inputs = preprocess(key, experiment.feed.sample(key, batches, size)[0], False)
    return match_units(network, find_symmetry(network), a, b, inputs)
