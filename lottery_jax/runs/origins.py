"""Origins: where the masks of a ladder and the weights of its tickets come from.

An origin is the run's own ladder or another run's. Both have the same methods, so nothing else in a
run asks which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from lottery_jax import config as configuration
from lottery_jax.curve import WINNING
from lottery_jax.errors import TicketError, TrainingError
from lottery_jax.leaves import by_path
from lottery_jax.parallel import multihost
from lottery_jax.pruning import heads, masks
from lottery_jax.pruning.controls import UntrainedTicket
from lottery_jax.runs.directory import Trial
from lottery_jax.runs.draws import FROM_LEVEL_BEFORE, draw_mask
from lottery_jax.runs.experiment import Experiment
from lottery_jax.runs.pretrained import Pretrained, params_sha256
from lottery_jax.runs.store import RunStore
from lottery_jax.runs.transfer import Source, is_branch
from lottery_jax.runs.trials import Keys, PendingTrial, train_trials
from lottery_jax.tickets import Ticket
from lottery_jax.training.state import TrainState, init_state
from lottery_jax.types import PyTree


class RewindPoint(NamedTuple):
    """The weights from which all tickets of a seed start.

    Attributes:
        variables: the dense weights and their BatchNorm statistics, as NumPy arrays.
        initial: the variables of step 0, as NumPy arrays.
        state: the whole state at the rewind step; None if the weights are another run's, unless
            this run is a branch of it, in another order of the data.
        other: the rewind point of the seed's other initialisation, for controls on that one.
        align: from a mask of the seed's own network to that of the other one.
    """

    variables: PyTree
    initial: PyTree
    state: TrainState | None
    other: RewindPoint | None = None
    align: Callable[[PyTree], PyTree] | None = None


class Origin(Protocol):
    """Where masks and weights come from.

    Attributes:
        rewind_step: the step from which the weights are; None if nobody knows.
        skip: layers whose masks controls leave as they are.
    """

    rewind_step: int | None
    skip: tuple[str, ...]

    def rewind_points(self, seeds: Sequence[int]) -> dict[int, RewindPoint]:
        """Return the rewind point of each seed."""

    def mask(
        self,
        trial: Trial,
        point: RewindPoint,
        in_memory: Mapping[Trial, Ticket],
        *,
        worst: bool = False,
    ) -> PyTree:
        """Return the mask of a winning ticket.

        Args:
            trial: the trial of the winning ticket.
            point: the rewind point of its seed.
            in_memory: winning tickets of the level before that are still in memory.
            worst: whether to keep the weights with the lowest scores instead, for the control
                `invert`. A transferred mask has no scores.
        """

    def weights(
        self, trial: Trial, point: RewindPoint, in_memory: Mapping[Trial, Ticket]
    ) -> PyTree:
        """Return the variables from which a winning ticket starts; the arguments are `mask`'s."""

    def found_by(self, trial: Trial) -> dict[str, Any]:
        """Return the data, the optimizer and the config that found a ticket's mask."""


class OwnLadder:
    """The run trains to its own rewind points and draws its own masks."""

    def __init__(self, experiment: Experiment, store: RunStore) -> None:
        self._experiment = experiment
        self._store = store
        self.rewind_step: int | None = experiment.rewind_step
        self.skip = experiment.skip

    def rewind_points(self, seeds: Sequence[int]) -> dict[int, RewindPoint]:
        """Train the dense networks to the rewind step, or load the states that are there."""
        experiment, store = self._experiment, self._store
        initial = {
            store.trial(seed, 0): jax.device_get(experiment.init(Keys.from_seed(seed).init))
            for seed in seeds
        }
        points = reach_rewind_points(experiment, store, initial)
        return {trial.seed: point for trial, point in points.items()}

    def mask(
        self,
        trial: Trial,
        point: RewindPoint,
        in_memory: Mapping[Trial, Ticket],
        *,
        worst: bool = False,
    ) -> PyTree:
        """Return all of the dense network, or what is left when the next weights are pruned."""
        if trial.level == 0:
            return masks.ones_like(point.variables["params"])
        ticket, keys = self._parent(trial, in_memory), Keys.from_seed(trial.seed)
        return draw_mask(self._experiment, trial.level, ticket, point.initial, keys, worst=worst)

    def weights(
        self, trial: Trial, point: RewindPoint, in_memory: Mapping[Trial, Ticket]
    ) -> PyTree:
        """Return the rewind point's variables, or the trained ones of the ticket that is pruned.

        As `config.ladder.retrain` says (Renda et al. 2020). Trained variables, with the BatchNorm
        statistics of the end of training, are those of the level before or, where all levels prune
        the dense network, of level 0; the mask of that ticket has left zeros in them.
        """
        if trial.level == 0 or self._experiment.config.ladder.retrain == "weights":
            return point.variables
        return self._parent(trial, in_memory).trained_variables

    def _parent(self, trial: Trial, in_memory: Mapping[Trial, Ticket]) -> Ticket:
        """Return the ticket whose mask is pruned for a trial."""
        from_before = self._experiment.config.ladder.draw in FROM_LEVEL_BEFORE
        parent = self._store.trial(trial.seed, trial.level - 1 if from_before else 0)
        return in_memory.get(parent) or self._store.load_ticket(parent.ticket_dir)

    def found_by(self, trial: Trial) -> dict[str, Any]:
        """Return this run's own data, optimizer and config."""
        config = self._experiment.config
        return {
            "data": self._experiment.dataset.name,
            "optimizer": self._experiment.optimizer_options,
            "config_fingerprint": configuration.fingerprint(config),
        }


def reach_rewind_points(
    experiment: Experiment, store: RunStore, initial: Mapping[Trial, PyTree]
) -> dict[Trial, RewindPoint]:
    """Train dense networks to the rewind step, or load the states that are there.

    Args:
        experiment: the run's experiment.
        store: the run's store.
        initial: the variables of step 0 for each dense trial, as NumPy arrays.
    """
    states, pending = {}, []
    for trial, variables in initial.items():
        start = UntrainedTicket(masks.ones_like(variables["params"]), variables, 0)
        template = init_state(experiment.program.optimizer, start)
        state = store.load_rewind_state(trial, template)
        if state is None:
            pending.append(PendingTrial(trial, start))
        else:
            states[trial] = state
    failures = []
    with closing(train_trials(experiment, store, pending, experiment.rewind_step)) as groups:
        for trained in groups:
            reached = [(result.pending.trial, result.state) for result in trained]
            try:
                store.save_rewind_states(reached)
            except TrainingError as error:
                failures.append(error)
            states |= dict(reached)
    if failures:
        multihost.ending()
        raise failures[0]
    return {
        trial: RewindPoint(
            variables={"params": states[trial].params, "batch_stats": states[trial].batch_stats},
            initial=variables,
            state=states[trial],
        )
        for trial, variables in initial.items()
    }


class PretrainedLadder(OwnLadder):
    """The rewind points are weights from elsewhere; masks are drawn here, as by any own ladder."""

    def __init__(self, experiment: Experiment, store: RunStore, pretrained: Pretrained) -> None:
        super().__init__(experiment, store)
        self._pretrained = pretrained
        self.rewind_step = next(iter(pretrained.metadata.values())).get("rewind_step")
        self._new_head = heads.replaces_head(
            experiment.config.transfer.head, pretrained.num_classes, experiment.dataset.num_classes
        )

    def rewind_points(self, seeds: Sequence[int]) -> dict[int, RewindPoint]:
        """Load the weights from which the other tickets start, perhaps with a new output layer."""
        points = {}
        for seed in seeds:
            dense = self._store.load_ticket(self._pretrained.folders[seed])
            point = point_of_variables(
                self._experiment, dense.variables, seed, new_head=self._new_head
            )
            # This ladder has no earlier weights: the seed's own draw belongs to no ticket of it.
            points[seed] = point._replace(initial=point.variables)
        return points

    def found_by(self, trial: Trial) -> dict[str, Any]:
        """Return this run's own data, optimizer and config, and where the weights are from."""
        theirs = self._pretrained.metadata[trial.seed]
        pretrained = {
            "data": theirs["data"],
            "seed": theirs.get("seed"),
            "params_sha256": params_sha256(theirs),
        }
        return {**super().found_by(trial), "pretrained": pretrained}


def point_of_variables(
    experiment: Experiment, variables: PyTree, seed: int, *, new_head: bool
) -> RewindPoint:
    """Return the weights from which a dense ticket starts, as the rewind point of a seed.

    Args:
        experiment: the run's experiment.
        variables: of a ticket of level 0.
        seed: the seed of this run.
        new_head: whether the output layer is drawn anew.
    """
    init, key = experiment.init, Keys.from_seed(seed).init
    initial = jax.device_get(init(key))
    if not new_head:
        return RewindPoint(variables=variables, initial=initial, state=None)
    # Another key: the seed's own would give the head that the source began with.
    fresh = jax.device_get(init(jax.random.fold_in(key, 1)))["params"]
    layer = experiment.program.network.output_layer

    def with_head(variables: PyTree) -> PyTree:
        params = heads.with_new_head(variables["params"], fresh, layer=layer)
        return {**variables, "params": params}

    # All tickets of a seed have the same new head, those of the control `init`, too.
    return RewindPoint(variables=with_head(variables), initial=with_head(initial), state=None)


class TransferredLadder:
    """Masks and rewound weights are those of another run; only the output layer may be new."""

    def __init__(self, experiment: Experiment, store: RunStore, source: Source) -> None:
        self._experiment = experiment
        self._store = store
        self._source = source
        self.rewind_step: int | None = source.metadata.get("rewind_step")
        self._output_layer = experiment.program.network.output_layer
        transfer = experiment.config.transfer
        self._new_head = heads.replaces_head(
            transfer.head, source.num_classes, experiment.dataset.num_classes
        )
        self._head_mask = transfer.head_mask
        dense_head = self._new_head and self._head_mask == "dense"
        self.skip = (*experiment.skip, self._output_layer) if dense_head else experiment.skip

    def rewind_points(self, seeds: Sequence[int]) -> dict[int, RewindPoint]:
        """Load the weights at the source's rewind point, with a new output layer if asked for."""
        return {seed: self._rewind_point(seed) for seed in seeds}

    def _rewind_point(self, seed: int) -> RewindPoint:
        if self._source.has_dense:
            variables = self._store.load_ticket(self._source.ticket_dir(seed, 0)).variables
        else:  # of a series of the zoo that was rewound to step 0
            variables = jax.device_get(self._experiment.init(Keys.from_seed(seed).init))
        point = point_of_variables(self._experiment, variables, seed, new_head=self._new_head)
        if not self._source.has_dense:
            self._check_drawn(seed, point)
        if self._new_head or not is_branch(self._experiment.config, self._source.config):
            return point
        # The dense network continues with the optimizer's state, as it did in the source.
        start = UntrainedTicket(masks.ones_like(point.variables["params"]), point.variables, 0)
        template = init_state(self._experiment.program.optimizer, start)
        trial = Trial(self._source.workdir, seed, 0, WINNING)
        state = self._store.load_rewind_state(trial, template)
        theirs = self._source.config
        if state is None and not (theirs.source or theirs.ladder.pretrained):
            raise TicketError(
                f"{self._source.workdir}: has lost the rewind point of seed {seed}, whose optimizer "
                "state another order of the data starts from; train the run again"
            )
        return point._replace(state=state)

    def mask(
        self,
        trial: Trial,
        point: RewindPoint,
        in_memory: Mapping[Trial, Ticket],
        *,
        worst: bool = False,
    ) -> PyTree:
        """Return the source's mask, fitted to a new output layer."""
        assert not worst, "feasibility.check_choices refuses it"
        if trial.level == 0 and not self._source.has_dense:
            return masks.ones_like(point.variables["params"])
        ticket = self._store.load_ticket(self._source.ticket_dir(trial.seed, trial.level))
        mask = ticket.mask
        if not self._new_head:
            return mask
        layer, key = self._output_layer, Keys.from_seed(trial.seed).score
        head = heads.subtree(point.variables["params"], layer)
        return heads.mask_for_new_head(mask, head, self._head_mask, key, layer=layer)

    def _check_drawn(self, seed: int, point: RewindPoint) -> None:
        """Check that all tickets of a seed start from the weights that it draws here."""
        drawn = by_path(point.variables["params"])
        for level in range(1, self._experiment.config.ladder.levels + 1):
            ticket = self._store.load_ticket(self._source.ticket_dir(seed, level))
            kept = by_path(ticket.mask)
            for name, theirs in by_path(ticket.params).items():
                if self._new_head and name.startswith(f"{self._output_layer}/"):
                    continue
                if not np.array_equal(np.where(kept[name], drawn[name], 0), theirs):
                    raise TicketError(
                        f"{self._experiment.config.source}: {name} of level {level} is not what seed "
                        f"{seed} draws here (another version of JAX?), and the zoo has no dense "
                        "network of it"
                    )

    def weights(
        self, trial: Trial, point: RewindPoint, in_memory: Mapping[Trial, Ticket]
    ) -> PyTree:
        """Return the variables of the rewind point."""
        return point.variables

    def found_by(self, trial: Trial) -> dict[str, Any]:
        """Return what the source's ticket says of itself."""
        first = 0 if self._source.has_dense else 1
        folder = self._source.ticket_dir(trial.seed, max(trial.level, first))
        return dict(self._store.read_metadata(folder).get("found_by", {}))
