"""The configs of runs: valid at every scale; at full scale they train, and lower for GPU and TPU."""

import functools

import jax
import numpy as np
import pytest

from lottery_jax.config import KEYS, validate
from lottery_jax.datasets.dataset import Dataset
from lottery_jax.errors import ConfigError
from lottery_jax.models import MODELS
from lottery_jax.parallel.mesh import to_mesh
from lottery_jax.pruning import masks
from lottery_jax.pruning.scores import SCORES
from lottery_jax.reproduce.claims import all_claims
from lottery_jax.reproduce.protocols import PROTOCOLS, SCALES, protocol
from lottery_jax.runs.experiment import set_up
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.runs.parts import Parts
from lottery_jax.training.batches import epoch_order
from lottery_jax.training.program import init_device_state
from lottery_jax.training.state import MetricSums
from tests.helpers import quiet_console


@pytest.mark.parametrize("scale", SCALES)
def test_the_configs_of_a_scale_are_valid(scale):
    needed = {n for claim in all_claims().values() if scale in claim.scales for n in claim.runs}
    needed |= {PROTOCOLS[name].source for name in needed} - {""}
    for name in sorted(needed):
        try:
            config = protocol(name, scale)
        except ConfigError as error:
            key = str(error).partition("unknown key '")[2].partition("'")[0]
            assert key and key not in KEYS, error  # a key that another version has
            continue
        assert config.seeds == SCALES[scale].seeds and len(config.seeds) >= 3
        assert config.model.name in MODELS and config.ladder.scores in SCORES
        assert max(config.control_levels, default=0) <= config.ladder.levels
        assert config.train.epochs == SCALES[scale].base().train.epochs or name in (
            "part", "steps", "paths_random", "paths_synflow", "whole_to_target", "part_to_target"
        )  # fmt: skip


def narrow(name, scale):
    """A run of the full scale with a tenth of the width, one level and a few steps."""
    config = protocol(name, scale, (0,)).copy_and_resolve_references().unlock()
    config.model.width = 0.1
    config.train.batch_size, config.train.epochs = 16, 2
    config.optimizer.milestones = (1,)
    config.ladder.levels = 1
    config.ladder.sparsities = config.ladder.sparsities[:1]
    config.control_levels = ()
    config.controls = config.controls[:2]
    config.ladder.rewind = "1st" if config.ladder.rewind else 0
    config.ladder.score_batch_size = 16
    return validate(config)


@functools.cache
def data():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (48, 32, 32, 3), np.uint8), np.arange(48) % 10
    return Dataset.from_arrays(images, labels, images, labels, name="cifar10")


@pytest.mark.long
@pytest.mark.parametrize("scale", ["full", "full_resnet50"])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_step_of_the_full_scale_lowers(scale, platform):
    experiment = set_up(narrow("imp", scale), jax.devices()[:1], Parts(data=data()))
    program = experiment.program
    variables = experiment.init(jax.random.key(0))
    state = init_device_state(program, variables, masks.ones_like(variables["params"]), 0)
    key = jax.random.key(1)
    order = epoch_order(key, np.int32(0), examples=48, batch_size=16)
    arguments = (state, to_mesh(program.mesh, MetricSums.zero()), experiment.train, order, key)
    text = jax.export.export(program.train_step, platforms=[platform])(*arguments).mlir_module()
    assert text.count("stablehlo.convolution(") >= 3 * 16 - 1


@pytest.mark.long
@pytest.mark.parametrize("scale", ["full", "full_resnet50"])
@pytest.mark.parametrize("name", ["imp", "snip"])
def test_runs_of_the_full_scale_train(name, scale, tmp_path):
    rows = run_ladder(
        narrow(name, scale), tmp_path, devices=jax.devices()[:1], console=quiet_console(),
        data=data(),
    )  # fmt: skip
    assert {row["level"] for row in rows} == {0, 1} and len(rows) == 4
    assert all(np.isfinite(row["train_loss"]) for row in rows)
