"""Published numbers: which curves a name selects, and how differences are described."""

import pytest

from lottery_jax.errors import ConfigError
from lottery_jax.report import gohil, published

# A run with exactly the published recipe for VGG19.
GOHIL = {
    "model": {"name": "vgg19"},
    "data": {"name": "svhn"},
    "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4,
                  "schedule": "step", "milestones": [80, 120]},
    "train": {"epochs": 160, "batch_size": 512},
    "ladder": {"rewind": "1ep"},
    "seeds": [7],
}  # fmt: skip


def changed(**values):
    """Return GOHIL with other values, by section."""
    return {**GOHIL, **{k: {**GOHIL[k], **v} for k, v in values.items()}}


def test_every_curve_goes_from_dense_to_sparse_and_is_in_percent():
    for curve in published.CURVES:
        pruned = [p for p, _ in curve.points]
        assert pruned[0] == 0 and pruned == sorted(pruned) and pruned[-1] < 100
        chance = 1 if curve.data == "cifar100" else 5
        assert all(chance <= accuracy < 100 for _, accuracy in curve.points)
        assert curve.publication.citation and curve.publication.replicates >= 1
    assert len(published.CURVES) == 36 + 5


def test_all_series_of_the_replication_are_there():
    """36 of 31 levels; two of them are printed twice, as the baselines of other charts."""
    series = gohil.read()
    assert len(series) == len({each[:3] for each in series}) == 36
    assert {len(each.points) for each in series} == {31}
    assert len({each.points for each in series}) == 34
    assert {each.network for each in series} == {"vgg19", "resnet50"}
    by_name = {each[:3]: dict(each.points) for each in series}
    own = by_name["vgg19", "cifar100", "CIFAR-100 ticket"]
    expected = {0.0: 69.66, 48.8: 68.96, 89.26: 69.61, 97.19: 68.93, 98.85: 63.87, 99.88: 41.87}
    assert {pruned: own[pruned] for pruned in expected} == expected
    # Two facts about its headline gaps: nothing is pruned at level 0; and chance from early on.
    start = [by_name["vgg19", "cifar10_b", f"CIFAR-10{half} ticket"][0.0] for half in "ab"]
    assert start == [82.14, 89.2]
    random = by_name["vgg19", "cifar10", "random ticket"]
    assert {accuracy for pruned, accuracy in random.items() if pruned > 79} == {10.0}


def test_a_publication_gives_what_matches_a_run():
    series = published.select("gohil2020", [("vgg19", "svhn")])
    assert [c.ticket for c in series] == [
        "CIFAR-10 ticket", "CIFAR-100 ticket", "SVHN ticket", "random ticket"
    ]  # fmt: skip
    svhn = series[2]
    assert svhn.points[0] == (0, 95.61) and svhn.points[-1] == (99.88, 92.32)
    both = published.select("gohil2020", [("vgg19", "svhn"), ("resnet50", "cifar10")])
    assert [c.network for c in both] == ["resnet50"] * 3 + ["vgg19"] * 4
    tanaka = published.select("tanaka2020", [("vgg16", "cifar10")])
    assert [c.ticket for c in tanaka] == [
        "random pruning", "magnitude at init", "SNIP", "GraSP", "SynFlow"
    ]  # fmt: skip
    assert tanaka[-1].points == ((0, 93.5), (90, 93.26), (96.8, 92.12), (99, 90.08), (99.9, 80.39))


def test_an_explicit_name_needs_no_match_and_its_label_says_so():
    curves = published.select("gohil2020:vgg19_svhn", [("lenet_300_100", "digits")])
    assert [c.label([("lenet_300_100", "digits")]) for c in curves] == [
        f"Gohil et al. 2020, vgg19 on svhn: {ticket} ticket"
        for ticket in ("CIFAR-10", "CIFAR-100", "SVHN", "random")
    ]
    assert curves[2].label([("vgg19", "svhn")]) == "Gohil et al. 2020: SVHN ticket"


@pytest.mark.parametrize(
    "name, says",
    [
        ("gohil2020", "gohil2020 has no numbers of conv2 on digits"),
        ("gohil2021", "unknown publication 'gohil2021'"),
        ("gohil2020:vgg19_mnist", "no published numbers 'gohil2020:vgg19_mnist'"),
    ],
)
def test_no_match_is_an_error_that_lists_what_there_is(name, says):
    with pytest.raises(ConfigError, match=says) as caught:
        published.select(name, [("conv2", "digits")])
    assert "gohil2020:resnet50_cifar10, gohil2020:resnet50_cifar100, " in str(caught.value)
    assert "gohil2020:vgg19_cifar10, gohil2020:vgg19_cifar100, " in str(caught.value)
    assert "tanaka2020:vgg16_cifar10" in str(caught.value) and "\n" not in str(caught.value)


def test_differences_in_training():
    *_, curve, random = published.select("gohil2020", [("vgg19", "svhn")])
    assert random.settings == curve.settings
    assert published.differences(curve, GOHIL) == []
    assert published.differences(curve, {**GOHIL, "seeds": [0, 1]}) == ["seeds 1 (here 2)"]
    run = changed(train={"epochs": 10}, optimizer={"schedule": "cosine", "learning_rate": 0.05})
    assert published.differences(curve, run) == [
        "epochs 160 (here 10)",
        "learning rate 0.1 (here 0.05)",
        "schedule step (here cosine)",
        "rate drops after epochs 80/120 (here none)",
    ]
    # Adam has no momentum, whatever the config says.
    adam = changed(optimizer={"name": "adam", "momentum": 0.5})
    assert published.differences(curve, adam) == ["optimizer sgd (here adam)"]
    # A key that the run's config lacks is not compared.
    assert published.differences(curve, {"seeds": [0]}) == []


def test_notes_cite_and_tell_curves_apart():
    curves = published.select("gohil2020", [("vgg19", "cifar10")])
    notes = published.notes(curves, {"mine": changed(data={"name": "cifar10"})})
    assert notes[0].startswith("Gohil et al. 2020: Varun Gohil") and "ReScience C 6.2" in notes[0]
    assert notes[1] == (
        "Differences in training (CIFAR-10 ticket; CIFAR-100 ticket; random ticket; "
        "SGD on an Adam ticket; SGD on an SGD ticket; random ticket, SGD): none that is known."
    )
    assert notes[2] == (
        "Differences in training (Adam on an SGD ticket; Adam on an Adam ticket; "
        "random ticket, Adam): optimizer adam (here sgd), learning rate 0.0003 (here 0.1)."
    )
    assert any(note.startswith("Their random ticket keeps the trained weights") for note in notes)
    svhn = published.notes(published.select("gohil2020", [("vgg19", "svhn")]), {"mine": GOHIL})
    assert "Their code flips SVHN's digits in training." in svhn
    assert "Their code flips SVHN's digits in training." not in notes
    assert published.notes([], {"mine": GOHIL}) == []
