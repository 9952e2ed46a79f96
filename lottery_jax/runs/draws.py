"""The draw of a level: weights are scored, and the best of them are kept."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lottery_jax import leaves
from lottery_jax.models.xla_options import compiler_options
from lottery_jax.pruning import masks
from lottery_jax.pruning.schedule import prune_iteratively
from lottery_jax.pruning.scores import OWN_ROUNDS, SCORES, ScoreInputs
from lottery_jax.runs.experiment import Experiment
from lottery_jax.runs.feasibility import kept_at
from lottery_jax.runs.trials import Keys
from lottery_jax.tickets import Ticket
from lottery_jax.training.batches import make_preprocess
from lottery_jax.training.task import BatchLoss, SummedOutput
from lottery_jax.types import PyTree

# Ways to draw that prune the mask of the level before. The others prune the dense network.
FROM_LEVEL_BEFORE = ("iterative", "init_nested")
# Ways to draw that score the weights at the start of training. The others score trained ones.
_AT_START = ("init", "init_nested")


def draw_mask(
    experiment: Experiment,
    level: int,
    parent: Ticket,
    initial: PyTree,
    keys: Keys,
    *,
    worst: bool = False,
) -> PyTree:
    """Score the weights that `config.ladder.draw` names, and keep the best of them.

    Args:
        experiment: the run's experiment.
        level: the level to draw.
        parent: the ticket whose mask is pruned: that of the level before, or the dense one.
        initial: the variables of step 0 of the seed.
        keys: the keys of the seed.
        worst: whether to keep the lowest scores, in a single round.
    """
    ladder, network = experiment.config.ladder, experiment.program.network
    variables = parent.variables if ladder.draw in _AT_START else parent.trained_variables
    size = ladder.score_batch_size or experiment.config.train.batch_size
    preprocess = make_preprocess(experiment.dataset.mean, experiment.dataset.std, "none")
    # Where every level prunes the dense network, all levels see the same images: one ranking is
    # cut at several places.
    from_before = ladder.draw in FROM_LEVEL_BEFORE
    data_keys = jax.random.fold_in(keys.score, level) if from_before else keys.score
    # The same key for all levels and rounds: a random order of the weights stays the same.
    score_key = jax.random.split(jax.random.fold_in(keys.score, 0))[1]

    def score(mask: PyTree, rounds_done: int) -> PyTree:
        data_key = jax.random.split(jax.random.fold_in(data_keys, rounds_done))[0]

        @cache
        def sample() -> tuple[Any, Any]:
            images, labels = experiment.inputs.sample(data_key, ladder.score_batches, size)
            return preprocess(data_key, images, False), labels

        inputs = ScoreInputs(
            # In float32 whatever training computes in (an NNX module keeps the dtype it was made
            # with), and on one device: the same ranking on any number of devices.
            loss=partial(BatchLoss, network.with_dtype(jnp.float32), experiment.program.task),
            summed_output=SummedOutput(network.with_dtype(jnp.float64)),
            compiler_options=compiler_options(jax.default_backend()),
            params=jax.device_get(masks.apply(mask, variables["params"])),
            mask=mask,
            batch_stats=variables["batch_stats"],
            initial=jax.device_get(initial["params"]),
            input_shape=tuple(experiment.dataset.image_shape),
            sample=sample,
            key=score_key,
        )
        return SCORES[ladder.scores](inputs)

    sizes = masks.ranking_groups(masks.ones_like(parent.mask), ladder.scope, experiment.skip)
    counts = kept_at(ladder, sizes, level)
    if worst:
        lowest = leaves.map_arrays(lambda s: -np.asarray(s, float), score(parent.mask, 0))
        return masks.prune_to(lowest, parent.mask, counts)
    rounds = ladder.rounds or OWN_ROUNDS.get(ladder.scores, 1)
    return prune_iteratively(score, parent.mask, counts, rounds)
