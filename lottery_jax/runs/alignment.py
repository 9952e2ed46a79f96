"""Alignment: another initialisation of a seed, and a seed's masks permuted to match it.

A mask was found in a network A, the run's own. Another network B of the same seed has other initial
weights and sees the same batches. It is trained once without a mask: the trial of level 0 named
`aligned`. Then the control `aligned` trains B from its rewind point with A's mask, whose units are
permuted to match B's, and `unaligned` with A's mask as it is (Adnan et al., ICML 2025).

With `config.transfer.align` A is another run's network of the same seed, and B is this run's own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import jax

from lottery_jax.pruning import heads
from lottery_jax.pruning.controls import ALIGNED
from lottery_jax.pruning.matching import match_units
from lottery_jax.pruning.permutations import Permutation, find_symmetry, permute
from lottery_jax.runs.directory import Trial
from lottery_jax.runs.experiment import Experiment
from lottery_jax.runs.origins import (
    Origin,
    OwnLadder,
    PretrainedLadder,
    RewindPoint,
    TransferredLadder,
    reach_rewind_points,
)
from lottery_jax.runs.store import RunStore
from lottery_jax.runs.transfer import Source
from lottery_jax.runs.trials import Keys
from lottery_jax.tickets import Ticket
from lottery_jax.training.batches import make_preprocess
from lottery_jax.types import PyTree

# Units are matched by their activations on about this many training examples, in whole batches, or on
# all if there are fewer.
EXAMPLES = 4096
_NAME = zlib.crc32(ALIGNED.encode())  # sets the keys apart from those that a seed uses elsewhere


def other_key(seed: int) -> jax.Array:
    """Return the key of a seed's other initialisation."""
    return jax.random.fold_in(Keys.from_seed(seed).init, _NAME)


def _other_start(experiment: Experiment, seed: int) -> PyTree:
    return jax.device_get(experiment.init(other_key(seed)))


def make_origin(experiment: Experiment, store: RunStore) -> Origin:
    """Return the origin that a config asks for."""
    if experiment.source and experiment.config.transfer.align:
        return AlignedLadder(experiment, store, experiment.source)
    if experiment.source:
        return TransferredLadder(experiment, store, experiment.source)
    if experiment.pretrained:
        return PretrainedLadder(experiment, store, experiment.pretrained)
    return OwnLadder(experiment, store)


def with_others(
    experiment: Experiment, store: RunStore, points: Mapping[int, RewindPoint]
) -> dict[int, RewindPoint]:
    """Return the rewind points of seeds, each with that of the seed's other initialisation.

    The other networks are trained to the rewind step, or loaded. A run without the control
    `aligned` has none.
    """
    if ALIGNED not in experiment.config.controls:
        return dict(points)
    starts = {store.trial(seed, 0, ALIGNED): _other_start(experiment, seed) for seed in points}
    others = reach_rewind_points(experiment, store, starts)
    aligned = {}
    for dense, other in others.items():
        own = store.trial(dense.seed, 0)
        align = make_align(experiment, store, own.ticket_dir, dense.ticket_dir, dense.seed)
        aligned[dense.seed] = points[dense.seed]._replace(other=other, align=align)
    return aligned


class AlignedLadder(TransferredLadder):
    """Another run's masks, permuted to match networks of this run's own initialisations.

    The run trains its own dense networks; their weights at the rewind point are those of all
    tickets.
    """

    def __init__(self, experiment: Experiment, store: RunStore, source: Source) -> None:
        super().__init__(experiment, store, source)
        self.rewind_step = experiment.rewind_step
        self._aligns: dict[int, Callable[[PyTree], PyTree]] = {}

    def rewind_points(self, seeds: Sequence[int]) -> dict[int, RewindPoint]:
        """Train the dense networks to the rewind step, or load the states that are there."""
        starts = {
            self._store.trial(seed, 0): _other_start(self._experiment, seed) for seed in seeds
        }
        points = reach_rewind_points(self._experiment, self._store, starts)
        return {trial.seed: point for trial, point in points.items()}

    def mask(
        self,
        trial: Trial,
        point: RewindPoint,
        in_memory: Mapping[Trial, Ticket],
        *,
        worst: bool = False,
    ) -> PyTree:
        """Return the source's mask with its units permuted; all of the dense network."""
        mask = super().mask(trial, point, in_memory, worst=worst)
        if trial.level == 0:
            return mask
        if trial.seed not in self._aligns:
            theirs = self._source.ticket_dir(trial.seed, 0)
            own = self._store.trial(trial.seed, 0).ticket_dir
            self._aligns[trial.seed] = make_align(
                self._experiment, self._store, theirs, own, trial.seed
            )
        return self._aligns[trial.seed](mask)


def make_align(
    experiment: Experiment, store: RunStore, of_mask: Path, other: Path, seed: int
) -> Callable[[PyTree], PyTree]:
    """Return the function that permutes a mask of one network to match another one.

    Args:
        experiment: the run's experiment.
        store: the run's store.
        of_mask: the dense ticket of the network in which masks were found.
        other: that of the network which they are to match. Both are loaded when the function is
            called first, and must be complete then.
        seed: chooses the training examples that both see.
    """
    network = experiment.program.network
    symmetry = find_symmetry(network)

    @cache
    def permutations() -> dict[str, Permutation]:
        a, b = (store.load_ticket(folder).trained_variables for folder in (of_mask, other))
        return match_networks(experiment, a, b, seed)

    return lambda mask: permute(mask, symmetry, permutations())


def match_networks(
    experiment: Experiment, a: PyTree, b: PyTree, seed: int
) -> dict[str, Permutation]:
    """Return `match_units` of two trained networks, on training examples that the seed chooses."""
    network, dataset = experiment.program.network, experiment.dataset
    key = jax.random.fold_in(Keys.from_seed(seed).score, _NAME)
    size = min(experiment.config.train.batch_size, dataset.num_train)
    batches = max(1, min(EXAMPLES, dataset.num_train) // size)
    images, _ = experiment.inputs.sample(key, batches, size)
    preprocess = make_preprocess(dataset.mean, dataset.std, "none")
    # The output layer has no units to match, and that of another run may be of other classes.
    params = heads.with_new_head(a["params"], b["params"], layer=network.output_layer)
    inputs = (preprocess(key, batch, False) for batch in images)
    return match_units(network, find_symmetry(network), {**a, "params": params}, b, inputs)
