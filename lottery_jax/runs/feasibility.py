"""Checks that a run can be done at all, before anything is written or trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
from ml_collections import ConfigDict

from lottery_jax import leaves
from lottery_jax.errors import ConfigError, describe_unknown, lookup
from lottery_jax.models import MODELS
from lottery_jax.models.network import Network
from lottery_jax.pruning import masks
from lottery_jax.pruning.controls import ALIGNED, CONTROLS, find_control, is_from_rewind_point
from lottery_jax.pruning.permutations import check_symmetry, find_symmetry
from lottery_jax.pruning.schedule import KeptCounts, kept_at_level
from lottery_jax.pruning.scores import GLOBAL_ONLY, SCORES, USES_DATA
from lottery_jax.runs.transfer import Source
from lottery_jax.system import host
from lottery_jax.training.program import Program
from lottery_jax.types import PyTree

_LAST_STEP = 2**31 - 1  # the train state counts steps in an int32


def check_choices(config: ConfigDict) -> None:
    """Check that the score and the controls exist, and that the score fits the scope."""
    lookup(SCORES, config.ladder.scores, "config.ladder.scores")
    if config.ladder.scores in GLOBAL_ONLY and config.ladder.scope != "global":
        raise ConfigError(
            f"config.ladder.scope: {config.ladder.scores} sets the density of each layer itself; "
            "use 'global'"
        )
    for name in config.controls:
        try:
            find_control(name)
        except KeyError:
            legal = (*CONTROLS, "noise_NUMBER")
            raise ConfigError(describe_unknown("config.controls", name, legal)) from None
        if is_from_rewind_point(name) and config.ladder.retrain != "weights":
            raise ConfigError(
                f"config.controls: {name} starts at a rewind point. With "
                f"config.ladder.retrain={config.ladder.retrain} tickets start from trained weights, "
                "with zeros where earlier levels pruned, so the two can't be compared; leave it out"
            )
    if "invert" in config.controls and (config.source or config.ladder.scores in GLOBAL_ONLY):
        why = (
            "masks of a transfer were drawn by scores that its source does not keep"
            if config.source
            else f"the scores {config.ladder.scores} rank layers, not weights"
        )
        raise ConfigError(
            f"config.controls: invert keeps the lowest scores, but {why}; leave it out"
        )
    if "unaligned" in config.controls and ALIGNED not in config.controls:
        raise ConfigError(
            "config.controls: 'unaligned' puts masks on the other initialisation that 'aligned' "
            "trains; add 'aligned'"
        )
    if config.transfer.align and not config.source:
        raise ConfigError(
            "config.transfer.align: name the run whose masks it aligns, in config.source"
        )
    if config.transfer.align and ALIGNED in config.controls:
        raise ConfigError(
            "config.controls: with config.transfer.align the other initialisation of 'aligned' is "
            "the run's own; leave 'aligned' out"
        )


def check_alignment(config: ConfigDict, network: Network) -> None:
    """Check that it is known which units may be permuted, if masks are to be aligned."""
    if ALIGNED not in config.controls and not config.transfer.align:
        return
    key = "config.transfer.align" if config.transfer.align else "config.controls: 'aligned'"
    try:
        symmetry = find_symmetry(network)
        if config.model.name not in MODELS:  # tests have checked those
            check_symmetry(network, symmetry)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


def check_steps(config: ConfigDict, steps_per_epoch: int, rewind_step: int, end_step: int) -> None:
    """Check that steps can be counted, and that the rewind point lies before the end."""
    finetune = config.ladder.retrain == "finetune"  # its steps are counted after the others
    if (2 * end_step if finetune else end_step) > _LAST_STEP:
        raise ConfigError(
            f"config.train.epochs: {config.train.epochs} epochs of {steps_per_epoch} steps are more "
            f"than the {_LAST_STEP} steps that can be counted"
        )
    if rewind_step >= end_step:
        raise ConfigError(
            f"config.ladder.rewind: {config.ladder.rewind!r} is step {rewind_step}, but training "
            f"ends at step {end_step}"
        )
    ladder = config.ladder
    if "init" in config.controls and ladder.pretrained:
        raise ConfigError(
            "config.controls: with config.ladder.pretrained there are no weights of step 0 for the "
            "control 'init'; leave it out"
        )
    if "init" in config.controls and rewind_step == 0 and ladder.retrain == "weights":
        raise ConfigError(
            "config.controls: with config.ladder.rewind=0 the control 'init' is the winning ticket "
            "itself; rewind to a later step, or leave it out"
        )


def check_initial_weights(config: ConfigDict, source: Source) -> None:
    """Check that the source's tickets have weights of step 0, if a control starts from them."""
    if "init" not in config.controls or config.transfer.align:
        return
    pretrained = "pretrained" in source.metadata.get("found_by", {})
    if pretrained or source.config.transfer.align:
        key = "config.ladder.pretrained" if pretrained else "config.transfer.align"
        raise ConfigError(
            f"config.controls: the ladder of {source.workdir} has {key}, so its seeds do not draw the "
            "weights of step 0 that the control 'init' starts from; leave it out"
        )


def check_evaluations(config: ConfigDict, *, has_validation: bool) -> None:
    """Check that there is a validation set where a step of early stopping is looked for."""
    if config.train.eval_every_steps and not has_validation:
        raise ConfigError(
            "config.train.eval_every_steps needs config.data.validation_fraction: the step of early "
            "stopping is that of the smallest validation loss (--config.data.validation_fraction=0.1)"
        )


def check_memory(
    config: ConfigDict, init: Callable[[jax.Array], PyTree], program: Program, replicates: int
) -> None:
    """Refuse a network that can't be trained in the memory that there is.

    The least that a step needs is counted: weights, gradients, optimizer state and mask, for the
    replicates on one device. Activations come on top, so not every network that passes will fit.
    """

    def count(tree: PyTree) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    size, variables = leaves.size_in_bytes, jax.eval_shape(init, jax.random.key(0))
    params = variables["params"]
    optimizer = jax.eval_shape(program.optimizer.init, params)
    needed = replicates * (size(variables) + size(params) + size(optimizer) + count(params))
    available = min(host.memory(), *map(_memory_of, program.mesh.local_devices))
    if needed > available:
        several = f", {replicates} times on a device (config.train.together)"
        raise ConfigError(
            f"config.model.width: {config.model.width:g} makes {config.model.name} a network of "
            f"{count(params):,} weights{several if replicates > 1 else ''}, which take "
            f"{host.in_words(needed)} to train; there are {host.in_words(available)}"
        )


def _memory_of(device: jax.Device) -> float:
    """Return an accelerator's bytes of memory, or infinity where a device does not say."""
    try:
        return (device.memory_stats() or {}).get("bytes_limit", math.inf)
    except RuntimeError:
        return math.inf


def check_ladder(ladder: ConfigDict, params: PyTree, skip: Sequence[str]) -> None:
    """Refuse a ladder with a level that keeps no weight, or that prunes none.

    Args:
        ladder: `config.ladder`.
        params: the network's parameters, or their shapes.
        skip: layers that are never pruned.
    """
    sizes = masks.ranking_groups(masks.ones_like(params), ladder.scope, skip)
    before = sum(sizes.values())
    for level in range(1, ladder.levels + 1):
        kept = sum(kept_at(ladder, sizes, level).values())
        if not kept:
            key, limit = (
                ("sparsities", f"{ladder.sparsities[level - 1]:g} of {sum(sizes.values())}")
                if ladder.sparsities
                else ("levels", f"at most {level - 1} fit config.ladder.prune_fraction")
            )
            raise ConfigError(
                f"config.ladder.{key}: no weight would be left at level {level}; {limit}"
            )
        if kept == before:
            key = (
                f"sparsities: {ladder.sparsities[level - 1]:g}"
                if ladder.sparsities
                else f"prune_fraction: {ladder.prune_fraction:g}"
            )
            raise ConfigError(
                f"config.ladder.{key} prunes none of the {before} weights that level {level - 1} "
                f"keeps; raise it, or end the ladder there (--config.ladder.levels={level - 1})"
            )
        before = kept


def kept_at(ladder: ConfigDict, sizes: KeptCounts, level: int) -> KeptCounts:
    """Return how many weights each group of layers keeps at a level of `config.ladder`."""
    return kept_at_level(
        sizes, level, prune_fraction=ladder.prune_fraction, sparsities=ladder.sparsities
    )


def check_scores(config: ConfigDict, examples: int) -> None:
    """Check that there are enough images for scores that see data, and a CPU for synflow."""
    ladder = config.ladder
    size = ladder.score_batch_size or config.train.batch_size
    if ladder.scores in USES_DATA and ladder.score_batches * size > examples:
        raise ConfigError(
            f"config.ladder.score_batches: {ladder.score_batches} batches of {size} are more than "
            f"the {examples} training images"
        )
    if ladder.scores == "synflow":
        try:
            jax.local_devices(backend="cpu")
        except RuntimeError as error:
            raise ConfigError(
                "config.ladder.scores: synflow is computed in float64 on the CPU, which "
                "JAX_PLATFORMS leaves out; add cpu to it"
            ) from error
