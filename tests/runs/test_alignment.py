"""The controls `aligned` and `unaligned`: the mask of one initialisation on another one."""

import json
import shutil
from collections import Counter

import jax
import numpy as np
import pytest

from lottery_jax.config import validate
from lottery_jax.datasets import write_npz
from lottery_jax.errors import ConfigError
from lottery_jax.models import networks
from lottery_jax.parallel.mesh import to_host, to_mesh
from lottery_jax.pruning import masks
from lottery_jax.pruning.controls import UntrainedTicket
from lottery_jax.pruning.permutations import find_symmetry, permute
from lottery_jax.runs import alignment, directory, experiment, record
from lottery_jax.runs.alignment import match_networks
from lottery_jax.runs.ladder import run_ladder
from lottery_jax.runs.trials import Keys
from lottery_jax.tickets import tree_hash
from lottery_jax.training.loop import fit
from lottery_jax.training.program import init_device_state
from lottery_jax.training.state import init_state
from tests.faults import runs
from tests.helpers import assert_same, make_tiny_config, quiet_console, run_quietly
from tests.helpers import load_trained as load
from tests.parallel import pairs
from tests.pruning.small_networks import Residual


def make_config(**overrides):
    chosen = {"seeds": (3, 4), "controls": ("aligned", "unaligned"), "model.width": 0.1}
    return validate(make_tiny_config(**{**chosen, **overrides}))


def hashes(config, workdir):
    """The bits of all tickets."""
    return {
        (trial.seed, trial.level, trial.control): tree_hash(
            [ticket.mask, ticket.params, ticket.batch_stats, ticket.trained]
        )
        for trial in directory.list_trials(config, workdir)
        for ticket in [load(workdir, trial.seed, trial.level, trial.control)]
    }


@pytest.fixture(scope="module")
def config():
    return make_config()


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    run_quietly(config, workdir)
    return workdir


@pytest.mark.slow
def test_only_aligned_adds_a_dense_training(config, workdir):
    def names(config):
        return [(t.level, t.control) for t in directory.list_trials(config, workdir) if t.seed == 3]

    controls = ["winning", "aligned", "unaligned"]
    both = [(level, name) for level in (1, 2) for name in controls]
    assert names(config) == [(0, "winning"), (0, "aligned"), *both]
    config = config.copy_and_resolve_references()
    config.control_levels = (2,)
    assert names(config)[:3] == [(0, "winning"), (0, "aligned"), (1, "winning")]
    config.controls = ("reinit",)
    assert (0, "reinit") not in names(config) and (0, "aligned") not in names(config)


@pytest.mark.slow
def test_masks_are_permuted_as_the_dense_networks_match(config, workdir):
    """Counts stay in each layer, and both controls start from the other rewind point's bits."""
    setup = experiment.set_up(config, jax.devices()[:1])
    network = setup.program.network
    for seed in config.seeds:
        own, other = load(workdir, seed, 0), load(workdir, seed, 0, "aligned")
        assert all(
            not np.array_equal(a, b)
            for a, b in zip(masks.kernels(own.params).values(), masks.kernels(other.params).values(),
                            strict=True)
        )  # fmt: skip
        match = match_networks(setup, own.trained_variables, other.trained_variables, seed)
        assert any(np.any(order != np.arange(len(order))) for order in match.values())
        for level in (1, 2):
            winner, aligned, unaligned = (
                load(workdir, seed, level, name) for name in ("winning", "aligned", "unaligned")
            )
            assert_same(unaligned.mask, winner.mask)
            assert_same(aligned.mask, permute(winner.mask, find_symmetry(network), match))
            assert masks.layer_counts(aligned.mask) == masks.layer_counts(winner.mask)
            for control in (aligned, unaligned):
                masked = jax.device_get(masks.apply(control.mask, other.params))
                assert_same(control.params, masked)
                for key in ("start_step", "rewind_step"):
                    assert control.metadata[key] == winner.metadata[key] == setup.rewind_step


def trained_by_hand(setup, seed, until, state=None):
    """The other network of a seed, straight through from its first weights or from a state."""
    if state is None:
        variables = setup.init(alignment.other_key(seed))
        mask = masks.ones_like(variables["params"])
        state = init_device_state(setup.program, variables, mask, 0)
    return to_host(fit(setup.program, state, setup.train, Keys.from_seed(seed).train, until=until))


@pytest.mark.slow
def test_the_other_dense_network_is_an_ordinary_training(config, workdir):
    """It has weights of its own, and the batches of its seed."""
    setup = experiment.set_up(config, jax.devices()[:1])
    dense = load(workdir, 4, 0, "aligned")
    assert dense.metadata["control"] == "aligned" and masks.density(dense.mask) == 1.0
    assert_same(trained_by_hand(setup, 4, setup.end_step).params, dense.trained)
    assert_same(trained_by_hand(setup, 4, setup.rewind_step).params, dense.params)
    names = [(seed, name) for seed in (3, 4) for name in ("winning", "aligned")]
    assert len({tree_hash(load(workdir, seed, 0, name).params) for seed, name in names}) == 4


@pytest.mark.long
def test_whatever_is_lost_is_made_again_to_the_bit(config, workdir, tmp_path):
    """Levels with their controls; the other dense network after its rewind point; and that one."""
    before, lines = hashes(config, workdir), (workdir / "metrics.jsonl").read_text().splitlines()
    for lost in (
        ["level_02/aligned", "level_02/unaligned", "level_02/ticket", "level_01/aligned"],
        ["level_00/aligned", "level_01/aligned", "level_02/aligned", "level_02/unaligned"],
        ["rewind_aligned", "level_00/aligned", "level_01/unaligned"],
    ):
        copy = tmp_path / "copy"
        shutil.copytree(workdir, copy)
        for name in lost:
            shutil.rmtree(copy / "seed_4" / name)
        run_quietly(config, copy)
        assert hashes(config, copy) == before
        rows = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
        count = Counter((r["seed"], r["level"], r["control"], r["epoch"]) for r in rows)
        assert len(count) == len(rows) == len(lines)
        shutil.rmtree(copy)


@pytest.mark.long
def test_a_seed_alone_has_the_same_bits(config, workdir, tmp_path):
    alone = make_config(seeds=(4,), **{"ladder.levels": 1})
    run_quietly(alone, tmp_path / "alone")
    together = hashes(config, workdir)
    for name, bits in hashes(alone, tmp_path / "alone").items():
        assert bits == together[name], name


@pytest.mark.long
def test_restored_optimizer_state_is_that_of_the_other_rewind_point(tmp_path):
    config = make_config(seeds=(3,), **{"ladder.levels": 1, "ladder.optimizer_state": "restored"})
    run_quietly(config, tmp_path / "run")
    setup = experiment.set_up(config, jax.devices()[:1])
    dense, ticket = (load(tmp_path / "run", 3, level, "aligned") for level in (0, 1))
    point = trained_by_hand(setup, 3, setup.rewind_step)
    start = UntrainedTicket(ticket.mask, dense.variables, setup.rewind_step)
    state = to_mesh(setup.program.mesh, init_state(setup.program.optimizer, start, point))
    assert_same(trained_by_hand(setup, 3, setup.end_step, state).params, ticket.trained)


@pytest.mark.long
@pytest.mark.parametrize("data, classes", [("digits_b", 10), ("four", 4)])
def test_a_transfer_aligns_the_sources_masks_with_its_own_weights(workdir, tmp_path, data, classes):
    """Other data and another number of classes are allowed; what is lost is made again."""
    rng = np.random.default_rng(0)
    arrays = {f"y_{split}": np.arange(count) % 4 for split, count in (("train", 300), ("test", 80))}
    for split in ("train", "test"):
        shape = (len(arrays[f"y_{split}"]), 8, 8, 1)
        arrays[f"x_{split}"] = rng.integers(0, 255, shape, dtype=np.uint8)
    write_npz(tmp_path / "four.npz", arrays)
    config = make_config(
        source=str(workdir), seeds=(4,), controls=(),
        **{"transfer.align": True, "data.name": data, "data.dir": str(tmp_path)},
    )  # fmt: skip
    run_quietly(config, tmp_path / "run")
    config = record.read_config(tmp_path / "run")
    setup = experiment.set_up(config, jax.devices()[:1])
    own, theirs = load(tmp_path / "run", 4, 0), load(workdir, 4, 0)
    assert tree_hash(own.params["dense1"]) != tree_hash(theirs.params["dense1"])
    match = match_networks(setup, theirs.trained_variables, own.trained_variables, 4)
    for level in (1, 2):
        ticket, source = load(tmp_path / "run", 4, level), load(workdir, 4, level)
        permuted = permute(source.mask, find_symmetry(setup.program.network), match)
        for layer in ("dense1", "dense2", *(("head",) if classes == 10 else ())):
            assert_same(ticket.mask[layer], permuted[layer])
        assert_same(ticket.params, jax.device_get(masks.apply(ticket.mask, own.params)))
        assert ticket.metadata["found_by"]["data"] == "digits"
    before = hashes(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "seed_4" / "level_02" / "ticket")
    shutil.rmtree(tmp_path / "run" / "seed_4" / "level_00" / "ticket")
    run_quietly(config, tmp_path / "run")
    assert hashes(config, tmp_path / "run") == before


@pytest.mark.long
def test_two_processes_permute_the_same_mask(tmp_path):
    """The mask of the primary process is that of both, and fits the dense networks of the run."""
    overrides = {"model.width": 0.1, "controls": "aligned,unaligned", "ladder.levels": 1,
                 "train.epochs": 1, "train.batch_size": 256, "ladder.rewind": "2st"}  # fmt: skip
    workdir = tmp_path / "run"
    processes = pairs.start_processes(workdir, overrides, runs.environment(), tmp_path)
    assert pairs.ends(processes) == [0, 0], pairs.said(workdir, tmp_path, 0)
    setup = experiment.set_up(record.read_config(workdir), jax.devices()[:1])
    dense = [load(workdir, 0, 0, name) for name in ("winning", "aligned")]
    winner, aligned = (load(workdir, 0, 1, name) for name in ("winning", "aligned"))
    match = match_networks(setup, *(ticket.trained_variables for ticket in dense), 0)
    assert_same(aligned.mask, permute(winner.mask, find_symmetry(setup.program.network), match))
    assert_same(aligned.params, jax.device_get(masks.apply(aligned.mask, dense[1].params)))


@pytest.mark.slow
def test_a_transfer_that_aligns_has_no_aligned_control(workdir, tmp_path):
    with pytest.raises(ConfigError, match="leave 'aligned' out"):
        run_quietly(make_config(source=str(workdir), **{"transfer.align": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_can_not_be_aligned_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"config.transfer.align: name the run"):
        run_quietly(make_config(controls=(), **{"transfer.align": True}), tmp_path / "run")
    with pytest.raises(ConfigError, match="'unaligned' puts masks on .* add 'aligned'"):
        run_quietly(make_config(controls=("unaligned",)), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"config.controls: 'aligned': no permutation symmetry"):
        run_ladder(
            make_tiny_config(controls=("aligned",)),
            tmp_path / "run",
            model=networks.linen(Residual()),
            console=quiet_console(),
        )
    assert not (tmp_path / "run").exists()
