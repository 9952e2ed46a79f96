"""The structure of masks: overlap against chance, density of layers, fan-in and fan-out, signs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lottery_jax.analysis.opening import NOT_COMPLETE, load, open_run
from lottery_jax.curve import WINNING
from lottery_jax.errors import ConfigError
from lottery_jax.pruning import masks
from lottery_jax.runs.directory import Row, Trial, list_trials
from lottery_jax.tickets import Ticket
from lottery_jax.tickets.compare import Overlap, effective_density, overlap_of_layers


def fan_in(kernel: Any) -> Any:
    """Return how many weights lead to each output unit, int `[outputs]`.

    Args:
        kernel: a layer's mask, bool `[..., inputs, outputs]`.

    >>> fan_in(np.array([[True, False], [True, True]]))
    array([2, 1])
    """
    return np.count_nonzero(kernel, axis=tuple(range(np.ndim(kernel) - 1)))


def fan_out(kernel: Any) -> Any:
    """Return how many weights lead on from each input unit, int `[inputs]`.

    Args:
        kernel: a layer's mask, bool `[..., inputs, outputs]`.

    >>> fan_out(np.array([[True, False], [True, True]]))
    array([1, 2])
    """
    axes = (*range(np.ndim(kernel) - 2), np.ndim(kernel) - 1)
    return np.count_nonzero(kernel, axis=axes)


def overlap(run_dirs: Sequence[str | Path], *, epoch: int | None = None) -> list[Row]:
    """Compare the winning tickets of levels, of seeds and of runs in pairs.

    Args:
        run_dirs: runs of one network, which may be on different data.
        epoch: look at the weights after this epoch of each training, one of
            `config.train.keep_epochs`; default: at its end.

    Returns:
        A row for each pair: of successive levels of a seed (`kind` is `levels`), of two seeds at
        the same level (`seeds`), and of the same seed and level in two runs (`runs`). `jaccard` is
        the share of the weights that either keeps which both keep. `over_chance` is the number that
        both keep over the number expected of independent masks of the same density, and
        `over_chance_within_layers` of the same density in each layer. `same_start` and
        `same_trained` are the shares of the weights that both keep whose signs agree.

    Raises:
        ConfigError: a directory is not a run, or nothing is complete.
        TicketError: the runs are of different networks, or the weights after `epoch` were not kept.
    """
    runs = _open(run_dirs)
    rows, found = [], 0
    before: dict[tuple[str, int], Ticket] = {}
    for level in range(1 + max(config.ladder.levels for _, config in runs.values())):
        here = {
            (name, seed): load(trial, epoch)
            for name, (workdir, config) in runs.items()
            for seed in config.seeds
            if (trial := Trial(workdir, seed, level, WINNING)).is_complete
        }
        rows += [
            _pair("levels", (member, level - 1, before[member]), (member, level, ticket))
            for member, ticket in here.items()
            if member in before
        ]
        if level:  # all masks of dense networks are the same
            rows += [
                _pair(kind, (a, level, here[a]), (b, level, here[b])) for kind, a, b in _pairs(here)
            ]
        found += len(here)
        before = here
    if not found:
        raise _nothing_complete(run_dirs)
    return rows


def _pairs(members: Any) -> Iterator[tuple[str, tuple[str, int], tuple[str, int]]]:
    """Yield the pairs of (run, seed) that are compared, with their kind."""
    found = list(members)
    for i, a in enumerate(found):
        for b in found[i + 1 :]:
            if a[0] == b[0]:
                yield "seeds", a, b
            elif a[1] == b[1]:
                yield "runs", a, b


def _pair(
    kind: str,
    first: tuple[tuple[str, int], int, Ticket],
    second: tuple[tuple[str, int], int, Ticket],
) -> Row:
    (run_a, seed_a), level_a, a = first
    (run_b, seed_b), level_b, b = second
    layers, _ = overlap_of_layers(a, b)
    total = _total(layers)
    within = sum(layer.by_chance for layer in layers.values())
    return {
        "kind": kind,
        "run": run_a, "seed": seed_a, "level": level_a,
        "other_run": run_b, "other_seed": seed_b, "other_level": level_b,
        "density": a.density,
        "other_density": b.density,
        "jaccard": total.jaccard,
        "over_chance": total.ratio,
        "over_chance_within_layers": total.both / within if within else math.nan,
        "same_start": _share(total.same_start, total.both),
        "same_trained": _share(total.same_trained, total.both),
    }  # fmt: skip


def _total(layers: dict[str, Overlap]) -> Overlap:
    columns = zip(*(tuple(vars(layer).values()) for layer in layers.values()), strict=True)
    return Overlap(*map(sum, columns))


def densities(run_dirs: Sequence[str | Path], *, epoch: int | None = None) -> list[Row]:
    """Measure how dense each ticket is, directly and effectively, and which signs it keeps.

    Args:
        run_dirs: the runs.
        epoch: the epoch whose weights count as trained, one of `config.train.keep_epochs`; default:
            the last.

    Returns:
        A row for each complete ticket and control. `effective_density` counts only weights on a
        path from the input to the output, `effective_share` is what it is of `density`, and
        `effective_compression` is its inverse (Vysogorets & Kempe, JMLR 2023); NaN for networks
        whose paths can't be followed. `start_sign` is the share
        of the kept weights whose sign after training is that before it, `dense_sign` of those whose
        sign is that of the trained dense network.

    Raises:
        ConfigError: a directory is not a run, or nothing is complete.
        TicketError: a ticket is damaged, or its weights after `epoch` were not kept.
    """
    rows = []
    for name, trial, ticket, dense in _all_tickets(run_dirs, epoch):
        kept = masks.kernels(ticket.mask)
        trained, start = masks.kernels(ticket.trained), masks.kernels(ticket.params)
        effective = effective_density(ticket)
        rows.append(
            {
                **_identity(name, trial),
                "density": ticket.density,
                "effective_density": effective,
                "effective_share": _share(effective, ticket.density),
                "compression": _inverse(ticket.density),
                "effective_compression": _inverse(effective),
                "start_sign": _same_signs(kept, trained, start),
                "dense_sign": _same_signs(kept, trained, masks.kernels(dense.trained))
                if dense
                else math.nan,
            }
        )
    return rows


def layers(run_dirs: Sequence[str | Path]) -> list[Row]:
    """Describe each layer of each ticket: its density, and its units' fan-in and fan-out.

    Returns:
        A row for each layer of each complete ticket and control, from input to output. `no_input`
        counts output units to which no weight leads, `no_output` input units that no weight reads.

    Raises:
        ConfigError: a directory is not a run, or nothing is complete.
    """
    rows = []
    for name, trial, ticket, _ in _all_tickets(run_dirs):
        kernels = masks.kernels(ticket.mask)
        for layer in ticket.metadata["layer_order"]:
            kernel = np.asarray(kernels[layer])
            inputs, outputs = fan_in(kernel), fan_out(kernel)
            kept = int(np.count_nonzero(kernel))
            rows.append(
                {
                    **_identity(name, trial),
                    "layer": layer,
                    "density": ticket.density,
                    "weights": kernel.size,
                    "kept": kept,
                    "layer_density": kept / kernel.size,
                    **_spread("fan_in", inputs),
                    "no_input": int(np.count_nonzero(inputs == 0)),
                    **_spread("fan_out", outputs),
                    "no_output": int(np.count_nonzero(outputs == 0)),
                }
            )
    return rows


def _open(run_dirs: Sequence[str | Path]) -> dict[str, tuple[Path, Any]]:
    """Return the directory and the config of each run, by names that differ."""
    opened = [open_run(folder) for folder in run_dirs]
    names = [workdir.name for workdir, _ in opened]
    return {
        name if names.count(name) == 1 else str(run[0]): run
        for name, run in zip(names, opened, strict=True)
    }


def _all_tickets(
    run_dirs: Sequence[str | Path], epoch: int | None = None
) -> Iterator[tuple[str, Trial, Ticket, Ticket | None]]:
    """Yield the name of the run, the trial, its ticket, and the dense ticket of its seed."""
    found = 0
    for name, (workdir, config) in _open(run_dirs).items():
        dense: Ticket | None = None
        for trial in list_trials(config, workdir):
            if trial.level == 0:
                dense = None
            if not trial.is_complete:
                continue
            found += 1
            ticket = load(trial, epoch)
            if trial.level == 0:
                dense = ticket
            yield name, trial, ticket, dense
    if not found:
        raise _nothing_complete(run_dirs)


def _nothing_complete(run_dirs: Sequence[str | Path]) -> ConfigError:
    return ConfigError(f"{run_dirs[0]}: no ticket is complete; {NOT_COMPLETE}")


def _identity(name: str, trial: Trial) -> Row:
    return {"run": name, "seed": trial.seed, "level": trial.level, "control": trial.control}


def _spread(name: str, counts: Any) -> Row:
    return {
        f"{name}_min": int(counts.min()),
        f"{name}_median": float(np.median(counts)),
        f"{name}_max": int(counts.max()),
    }


def _same_signs(kept: Any, a: Any, b: Any) -> float:
    same = sum(int(np.count_nonzero((np.sign(a[n]) == np.sign(b[n])) & kept[n])) for n in kept)
    return _share(same, sum(int(np.count_nonzero(m)) for m in kept.values()))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _inverse(density: float) -> float:
    return 1 / density if density else math.inf
