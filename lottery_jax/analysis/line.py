"""The errors of networks on the line between two trained ones, on the test set of their run."""

from __future__ import annotations

import contextlib
import operator
from typing import Any

import jax
import numpy as np

from lottery_jax.analysis.batch_statistics import average, decay_of, make_statistics_pass
from lottery_jax.analysis.interpolation import interpolate
from lottery_jax.curve import is_share
from lottery_jax.parallel.mesh import to_mesh
from lottery_jax.runs.experiment import Experiment
from lottery_jax.training.batches import DeviceData, make_preprocess
from lottery_jax.training.evaluation import evaluate, make_eval_pass
from lottery_jax.training.program import compiled
from lottery_jax.types import PyTree

_EVAL_BATCH = 256  # at least; small networks are slow with the small batches that they train with


def error_of(value: float, metric: str) -> float:
    """Return a metric as an error: what is missing to 1 of a share; other metrics as they are."""
    return 1.0 - value if is_share(metric) else value


class Line:
    """The line between two networks of an experiment, measured on its test set.

    All points of all lines are measured by the same two compiled programs: one recomputes
    BatchNorm's statistics (`batch_statistics`), the other evaluates.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Compile nothing yet.

        Args:
            experiment: of one replicate, without augmentation.
        """
        self._experiment = experiment
        program, dataset = experiment.program, experiment.dataset
        mesh, preprocess = program.mesh, make_preprocess(dataset.mean, dataset.std, "none")
        statistics_pass = make_statistics_pass(program.network, preprocess, mesh)
        eval_pass = make_eval_pass(program.network, program.task, preprocess, mesh)
        self._statistics_pass = compiled(statistics_pass, mesh)

        def statistics_at(a: PyTree, b: PyTree, alpha: Any, zeros: PyTree, *data: Any) -> PyTree:
            return statistics_pass(interpolate(a, b, alpha), zeros, *data)

        def errors_at(points: Any, batch_stats: PyTree, *data: Any) -> Any:
            return eval_pass(interpolate(*points), batch_stats, *data)

        self._statistics_at = compiled(statistics_at, mesh)
        self._errors_at = compiled(errors_at, mesh)
        self._decay: PyTree = None

    def errors(self, a: PyTree, b: PyTree, alphas: Any) -> list[float]:
        """Return the error at each alpha: for classification the share of wrong answers, 0 to 1.

        Args:
            a: the variables of one network, `params` and `batch_stats`.
            b: those of the other.
            alphas: float32 `[n]`; 0 is `a` and 1 is `b`.
        """
        program = self._experiment.program
        ends = to_mesh(program.mesh, (a["params"], b["params"]))
        size = max(_EVAL_BATCH, program.batch_size)
        errors = []
        for alpha in alphas:
            points = (*ends, alpha)
            batch_stats = self._statistics(points, a)
            measured = evaluate(self._errors_at, size, points, batch_stats, self._experiment.test)
            errors.append(error_of(float(measured.accuracy), program.task.metric))
        return errors

    def error(self, variables: PyTree) -> float:
        """Return the error of a network with its own statistics of BatchNorm, 0 to 1 for a share."""
        program = self._experiment.program
        params, batch_stats = to_mesh(program.mesh, (variables["params"], variables["batch_stats"]))
        size = max(_EVAL_BATCH, program.batch_size)
        points = (params, params, np.float32(0))
        measured = evaluate(self._errors_at, size, points, batch_stats, self._experiment.test)
        return error_of(float(measured.accuracy), program.task.metric)

    def _statistics(self, points: Any, variables: PyTree) -> PyTree:
        """Return BatchNorm's statistics of a point, from a pass over the whole training set."""
        zeros = jax.tree.map(np.zeros_like, variables["batch_stats"])
        if not jax.tree.leaves(zeros):
            return zeros
        train, program = self._experiment.train, self._experiment.program
        if isinstance(train, DeviceData):
            # Shuffled: in files that are sorted by class, a batch would be of one class.
            order = program.epoch_order(jax.random.key(0), np.int32(0))
            if self._decay is None:
                self._decay = decay_of(self._statistics_pass, variables, train, order[:1])
            sums = self._statistics_at(*points, zeros, train, order)
            return average(sums, len(order), self._decay)
        sums, count = None, 0
        with contextlib.closing(self._experiment.inputs.batches(0)(0, 0)) as batches:
            for batch in batches:
                if self._decay is None:
                    self._decay = decay_of(self._statistics_pass, variables, batch, None)
                new = self._statistics_at(*points, zeros, batch, None)
                sums = new if sums is None else jax.tree.map(operator.add, sums, new)
                count += 1
        return average(sums, count, self._decay)
