"""Ladders that are drawn in other ways than IMP: which weights are scored, which are trained."""

import itertools
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

from lottery_jax import recipes
from lottery_jax.errors import ConfigError
from lottery_jax.pruning import masks, scores
from lottery_jax.runs.feasibility import check_choices
from lottery_jax.runs.ladder import run_ladder
from tests.helpers import assert_same, make_tiny_config, pruned_values, quiet_console
from tests.helpers import load_trained as load


def run(workdir, **overrides):
    short = {"model.width": 0.3, "seeds": (2,), "train.checkpoint_every_epochs": 0}
    config = make_tiny_config(**{**short, **overrides})
    return run_ladder(config, workdir, devices=jax.devices()[:1], console=quiet_console())


def best(tree, count):
    """The `count` best kernel weights of a score tree by one stable sort, as a mask."""
    names = sorted(masks.kernels(tree))
    kernels = [np.asarray(masks.kernels(tree)[name]) for name in names]
    flat = np.concatenate([k.ravel() for k in kernels])
    keep = np.zeros(flat.size, bool)
    keep[np.argsort(-flat, kind="stable")[:count]] = True
    parts = np.split(keep, np.cumsum([k.size for k in kernels])[:-1])
    return {n: p.reshape(k.shape) for n, p, k in zip(names, parts, kernels, strict=True)}


def magnitudes(params):
    return jax.tree.map(np.abs, params)


@pytest.mark.slow
def test_oneshot_prunes_the_trained_dense_network_and_rewinds(tmp_path):
    sparsities = (0.5, 0.97)
    run(tmp_path, **{"ladder.draw": "oneshot", "ladder.sparsities": sparsities,
                     "ladder.rewind": "5st"})  # fmt: skip
    dense = load(tmp_path, 2, 0)
    total = masks.counts(dense.mask)[1]
    for level, sparsity in enumerate(sparsities, 1):
        ticket = load(tmp_path, 2, level)
        expected = best(magnitudes(dense.trained), round(total * (1 - sparsity)))
        assert_same(masks.kernels(ticket.mask), expected)
        for name, kernel in masks.kernels(ticket.params).items():
            rewound = np.where(expected[name], masks.kernels(dense.params)[name], 0)
            np.testing.assert_array_equal(kernel, rewound)
        assert ticket.metadata["rewind_step"] == 5


@pytest.mark.parametrize("rewind", [0, "5st"])
def test_pruning_at_initialisation_scores_the_weights_that_are_trained(tmp_path, rewind):
    run(tmp_path, **{"ladder.draw": "init", "ladder.sparsities": (0.5, 0.9),
                     "ladder.rewind": rewind})  # fmt: skip
    starts = load(tmp_path, 2, 0).params
    total = masks.counts(load(tmp_path, 2, 0).mask)[1]
    for level, kept in ((1, round(total * 0.5)), (2, round(total * 0.1))):
        ticket = load(tmp_path, 2, level)
        assert_same(masks.kernels(ticket.mask), best(magnitudes(starts), kept))


def test_magnitude_at_init_looks_at_step_0_wherever_weights_are_rewound_to(tmp_path):
    common = {"ladder.draw": "init", "ladder.scores": "magnitude_at_init",
              "ladder.sparsities": (0.9,)}  # fmt: skip
    run(tmp_path / "late", **common, **{"ladder.rewind": "5st"})
    run(tmp_path / "start", **common, **{"ladder.rewind": 0})
    late, start = (load(tmp_path / name, 2, 1) for name in ("late", "start"))
    initial = load(tmp_path / "start", 2, 0).params
    expected = best(magnitudes(initial), masks.counts(start.mask)[0])
    assert_same(masks.kernels(start.mask), expected)
    assert_same(late.mask, start.mask)
    assert not np.array_equal(late.params["head"]["kernel"], start.params["head"]["kernel"])


@pytest.fixture(scope="module")
def snips(tmp_path_factory):
    """A SNIP ladder and an iterative one of the same five levels."""
    folder = tmp_path_factory.mktemp("snips")
    common = {"ladder.scores": "snip", "ladder.rewind": 0, "ladder.levels": 5, "train.epochs": 1,
              "ladder.prune_fraction": 0.5}  # fmt: skip
    for draw in ("init", "init_nested"):
        run(folder / draw, **common, **{"ladder.draw": draw})
    return folder


def test_snip_masks_have_imps_counts_and_nest_however_they_are_drawn(snips):
    for draw in ("init", "init_nested"):
        ladder_of_masks = [load(snips / draw, 2, level).mask for level in range(6)]
        alive = masks.counts(ladder_of_masks[0])[1]
        for before, after in itertools.pairwise(ladder_of_masks):
            alive = round(alive * 0.5)
            assert masks.counts(after)[0] == alive
            for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
                assert not (b & ~a).any()


def recording(monkeypatch, name):
    """The subjects that a score was asked for, as a list that fills."""
    seen, real = [], scores.SCORES[name]

    def record(subject):
        seen.append(subject)
        return real(subject)

    monkeypatch.setitem(scores.SCORES, name, record)
    return seen


def test_every_round_scores_what_the_one_before_left(tmp_path, monkeypatch):
    """Iterative SNIP: three levels, two rounds each, every one worked out again by hand."""
    seen = recording(monkeypatch, "snip")
    run(tmp_path, **{"ladder.draw": "init_nested", "ladder.scores": "snip", "ladder.rewind": 0,
                     "ladder.levels": 3, "ladder.prune_fraction": 0.5, "ladder.rounds": 2,
                     "train.epochs": 1})  # fmt: skip
    dense = load(tmp_path, 2, 0)
    total = masks.counts(dense.mask)[1]
    counts = [masks.counts(subject.mask)[0] for subject in seen]
    halves = [total, round(total / 2), round(round(total / 2) / 2)]
    assert counts[::2] == halves and len(seen) == 6
    assert counts[1::2] == [round(n * 0.5**0.5) for n in halves]
    for i, subject in enumerate(seen):
        expected = jax.tree.map(np.where, subject.mask, dense.params, jax.tree.map(
            np.zeros_like, dense.params))  # fmt: skip
        assert_same(subject.params, expected)
        found = scores.snip(subject.loss(1.0), subject.params, subject.batches(),
                            compiler_options=subject.compiler_options)  # fmt: skip
        after = seen[i + 1].mask if i < 5 else load(tmp_path, 2, 3).mask
        # What is pruned scores 0, so the best of all are the best of what is left.
        assert_same(masks.kernels(after), best(jax.device_get(found), masks.counts(after)[0]))


def test_synflow_takes_its_hundred_rounds(tmp_path, monkeypatch):
    seen = recording(monkeypatch, "synflow")
    run(tmp_path, **{"ladder.draw": "init", "ladder.scores": "synflow", "ladder.rewind": 0,
                     "ladder.sparsities": (0.99,), "train.epochs": 1})  # fmt: skip
    counts = [masks.counts(subject.mask)[0] for subject in seen]
    total = counts[0]
    last = round(total * (1 - 0.99))
    assert counts == [round(total * (last / total) ** (r / 100)) for r in range(100)]
    assert all((pruned_values(s.mask, s.params) == 0).all() for s in seen)


def test_erk_has_the_same_layer_densities_in_one_step_or_in_several(tmp_path):
    common = {"ladder.scores": "erk", "ladder.draw": "init", "ladder.rewind": 0,
              "train.epochs": 1, "ladder.sparsities": (0.6, 0.95)}  # fmt: skip
    run(tmp_path / "one", **common)
    run(tmp_path / "rounds", **{**common, "ladder.rounds": 5})
    run(tmp_path / "nested", **{**common, "ladder.draw": "init_nested"})
    one, rounds, nested = (load(tmp_path / n, 2, 2).mask for n in ("one", "rounds", "nested"))
    assert_same(one, rounds)
    assert_same(one, nested)


def test_iterative_snip_is_not_snip(snips):
    one, nested = (load(snips / draw, 2, 5).mask for draw in ("init", "init_nested"))
    assert masks.counts(one) == masks.counts(nested)
    kept, nested_kept = (masks.kernels(mask) for mask in (one, nested))
    shared = sum((kept[n] & nested_kept[n]).sum() for n in kept)
    count = masks.counts(one)[0]
    assert 0.05 * count < shared < 0.9 * count
    # Both start from the same weights, and each trains those that it scored.
    dense = load(snips / "init", 2, 0).params
    for draw in ("init", "init_nested"):
        ticket = load(snips / draw, 2, 5)
        for name, kernel in masks.kernels(ticket.params).items():
            expected = np.where(masks.kernels(ticket.mask)[name], masks.kernels(dense)[name], 0)
            np.testing.assert_array_equal(kernel, expected)


def test_snip_in_the_ladder_is_snip_by_hand(tmp_path, monkeypatch):
    """The scores are those of the pure function at the level's own starting weights."""
    seen = recording(monkeypatch, "snip")
    run(tmp_path, **{"ladder.draw": "init", "ladder.scores": "snip", "ladder.sparsities": (0.9,),
                     "ladder.rewind": 0, "ladder.score_batches": 3,
                     "ladder.score_batch_size": 7})  # fmt: skip
    (subject,) = seen
    dense, ticket = load(tmp_path, 2, 0), load(tmp_path, 2, 1)
    assert_same(subject.params, dense.params)
    images, labels = subject.sample()
    assert images.shape == (3, 7, 8, 8, 1) and labels.shape == (3, 7)
    # Normalised as in training, not augmented, and no image twice.
    assert abs(float(np.mean(images))) < 0.3
    assert len(np.unique(np.asarray(images).reshape(21, -1), axis=0)) == 21
    found = scores.snip(subject.loss(1.0), dense.params, subject.batches(),
                        compiler_options=subject.compiler_options)  # fmt: skip
    count = masks.counts(ticket.mask)[0]
    assert_same(masks.kernels(ticket.mask), best(jax.device_get(found), count))


@pytest.mark.parametrize("name", ["grasp", "synflow", "random", "erk"])
def test_every_other_score_draws_the_exact_count(tmp_path, name):
    rows = run(tmp_path, **{"ladder.draw": "init", "ladder.scores": name, "train.epochs": 1,
                            "ladder.sparsities": (0.8, 0.95), "ladder.rewind": 0})  # fmt: skip
    total = rows[0]["weights_total"]
    assert [r["weights_remaining"] for r in rows] == [
        total, round(total * (1 - 0.8)), round(total * (1 - 0.95))
    ]  # fmt: skip
    one, two = (masks.kernels(load(tmp_path, 2, level).mask) for level in (1, 2))
    if name != "synflow":  # its hundred rounds end elsewhere for another sparsity
        assert not any((two[n] & ~one[n]).any() for n in one)


def test_layer_scope_prunes_each_layer_to_its_share(tmp_path):
    run(tmp_path, **{"ladder.draw": "init", "ladder.scores": "snip", "ladder.scope": "layer",
                     "ladder.sparsities": (0.9,), "ladder.rewind": 0,
                     "train.epochs": 1, "ladder.skip_last": True})  # fmt: skip
    counts = masks.layer_counts(load(tmp_path, 2, 1).mask)
    assert counts.pop("head") == (300, 300)
    assert all(kept == round(total * (1 - 0.9)) for kept, total in counts.values())


@pytest.mark.long
def test_a_criterion_that_empties_a_layer_is_named(tmp_path):
    config = make_tiny_config(
        "vgg11",
        **{
            "ladder.draw": "init", "ladder.scores": "snip", "ladder.sparsities": (0.999,),
            "ladder.rewind": 0, "train.epochs": 1, "optimizer.learning_rate": 0.001,
        },
    )  # fmt: skip
    with (tmp_path / "out").open("w") as file:
        run_ladder(config, tmp_path / "run", devices=jax.devices()[:1],
                   console=Console(file=file, width=400))  # fmt: skip
    empty = masks.collapsed_layers(load(tmp_path / "run", 0, 1).mask)
    said = (tmp_path / "out").read_text()
    assert empty and "warning: seed 0, level 1, winning: no weight is left in" in said
    assert all(name in said for name in empty)


@pytest.mark.slow
def test_the_same_masks_on_one_device_and_on_eight(tmp_path):
    config = make_tiny_config(
        **{"ladder.draw": "init", "ladder.scores": "snip", "ladder.sparsities": (0.9,),
           "ladder.rewind": 0, "train.batch_size": 64, "train.epochs": 1, "model.width": 0.3},
    )  # fmt: skip
    for devices in (1, 8):
        run_ladder(config, tmp_path / str(devices), devices=jax.devices()[:devices],
                   console=quiet_console())  # fmt: skip
    assert_same(load(tmp_path / "1", 0, 1).mask, load(tmp_path / "8", 0, 1).mask)


@pytest.mark.parametrize(
    "override, says",
    [
        ({"ladder.scores": "erk", "ladder.scope": "layer"}, "use 'global'"),
        ({"ladder.sparsities": (0.99999,)}, r"config.ladder.sparsities: no weight .* level 1"),
        (
            {"ladder.scores": "snip", "ladder.score_batches": 20},
            "20 batches of 128 are more than the 1438",
        ),
        ({"controls": ("init",), "ladder.rewind": 0}, "'init' is the winning ticket itself"),
    ],
)
def test_draws_that_can_not_work_are_found_at_once(tmp_path, override, says):
    with pytest.raises(ConfigError, match=says):
        run(tmp_path / "run", **override)
    assert not (tmp_path / "run").exists()


def test_methods_differ_in_what_is_scored_and_in_nothing_else():
    """Different learning rates or weight decays would make the comparison worthless."""
    configs = {name: recipes.lenet_methods(name).to_dict() for name in recipes.METHODS}
    for config in configs.values():
        for key in ("draw", "scores", "rounds"):
            del config["ladder"][key]
    assert all(config == configs["imp"] for config in configs.values())
    imp = recipes.short_ladder(recipes.lenet("fashion_mnist")).to_dict()
    for key in ("seeds", "data", "model", "optimizer", "train"):
        assert imp[key] == configs["imp"][key]


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["iterative", pytest.param("oneshot", marks=pytest.mark.long)])
def test_controls_get_the_lowest_scores_and_the_weights_of_the_level_before(tmp_path, draw):
    """By one stable sort of the parent's weights; the winning tickets are those without controls."""
    names = ("invert", "replayed_random", "noise_0.5", "smart_ratio")
    options = {
        "ladder.draw": draw,
        "ladder.rewind": "5st",
        "ladder.prune_fraction": 0.6,
        "train.epochs": 1,
    }
    run(tmp_path, **options)
    plain = [load(tmp_path, 2, level) for level in range(3)]
    run(tmp_path / "with", **options, controls=names)
    for level in (1, 2):
        winner, parent = plain[level], plain[level - 1 if draw == "iterative" else 0]
        found = {name: load(tmp_path / "with", 2, level, name) for name in names}
        assert_same(load(tmp_path / "with", 2, level).trained, winner.trained)
        kept = masks.counts(winner.mask)[0]
        assert all(masks.counts(ticket.mask)[0] == kept for ticket in found.values())
        # The lowest of those that the parent kept: pruned ones get a score that is no candidate's.
        scored = jax.tree.map(
            lambda w, m: np.where(m, -np.abs(w), -np.inf), parent.trained, parent.mask
        )
        assert_same(masks.kernels(found["invert"].mask), best(scored, kept))
        before = plain[level - 1].trained
        replay = found["replayed_random"]
        for name, kernel in masks.kernels(replay.params).items():
            expected = np.where(masks.kernels(replay.mask)[name], masks.kernels(before)[name], 0)
            np.testing.assert_array_equal(kernel, expected)
        assert {t.metadata["start_step"] for t in found.values()} == {5}
        for name in ("invert", "smart_ratio"):
            for layer, kernel in masks.kernels(found[name].params).items():
                start = masks.kernels(plain[0].params)[layer]
                expected = np.where(masks.kernels(found[name].mask)[layer], start, 0)
                np.testing.assert_array_equal(kernel, expected)


@pytest.mark.long
def test_a_control_that_is_left_of_a_level_is_drawn_as_it_would_have_been(tmp_path):
    names = ("invert", "replayed_random")
    options = {"ladder.rewind": "5st", "ladder.levels": 2, "train.epochs": 1, "controls": names}
    run(tmp_path, **options)
    whole = [load(tmp_path, 2, 2, name) for name in names]
    for name in names:
        shutil.rmtree(tmp_path / "seed_2" / "level_02" / name)
    run(tmp_path, **options)
    for name, ticket in zip(names, whole, strict=True):
        again = load(tmp_path, 2, 2, name)
        assert_same(
            (again.mask, again.params, again.trained), (ticket.mask, ticket.params, ticket.trained)
        )


@pytest.mark.parametrize(
    "overrides, says",
    [({"ladder.scores": "erk", "ladder.draw": "init"}, "erk rank layers"),
     ({"source": "elsewhere"}, "its source does not keep")],
)  # fmt: skip
def test_there_is_no_worst_ticket_without_scores(overrides, says):
    config = make_tiny_config(**{"controls": ("reinit", "invert"), **overrides})
    with pytest.raises(ConfigError, match=f"config.controls: invert .*{says}"):
        check_choices(config)


def test_a_control_that_nobody_knows_is_told_with_the_amounts_of_noise():
    for name in ("noise_", "noisy_3", "noise_0"):
        config = make_tiny_config(controls=(name,))
        with pytest.raises(ConfigError, match=r"config.controls: .*noise_NUMBER"):
            check_choices(config)
    check_choices(make_tiny_config(controls=("noise_0.25", "noise_3", "noise")))
