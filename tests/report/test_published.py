"""Published numbers: which curves a name selects, and how differences are described."""

import pytest

from lottery_jax.errors import ConfigError
from lottery_jax.report import published

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
        assert all(5 < accuracy < 100 for _, accuracy in curve.points)
        assert curve.publication.citation and curve.publication.replicates >= 1
    assert len(published.CURVES) == 14


def test_a_publication_gives_what_matches_a_run():
    (svhn,) = published.select("gohil2020", [("vgg19", "svhn")])
    assert svhn.points[0] == (0, 95.61) and svhn.points[-1] == (99.88, 92.32)
    both = published.select("gohil2020", [("vgg19", "svhn"), ("resnet50", "cifar10")])
    assert [c.network for c in both] == ["vgg19", "resnet50", "resnet50"]
    tanaka = published.select("tanaka2020", [("vgg16", "cifar10")])
    assert [c.ticket for c in tanaka] == [
        "random pruning", "magnitude at init", "SNIP", "GraSP", "SynFlow"
    ]  # fmt: skip
    assert tanaka[-1].points == ((0, 93.5), (90, 93.26), (96.8, 92.12), (99, 90.08), (99.9, 80.39))


def test_an_explicit_name_needs_no_match_and_its_label_says_so():
    curves = published.select("gohil2020:vgg19_svhn", [("lenet_300_100", "digits")])
    assert [c.label([("lenet_300_100", "digits")]) for c in curves] == [
        "Gohil et al. 2020, vgg19 on svhn: SVHN ticket"
    ]
    assert curves[0].label([("vgg19", "svhn")]) == "Gohil et al. 2020: SVHN ticket"


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
    assert "gohil2020:resnet50_cifar10, gohil2020:vgg19_cifar10" in str(caught.value)
    assert "tanaka2020:vgg16_cifar10" in str(caught.value) and "\n" not in str(caught.value)


def test_differences_in_training():
    (curve,) = published.select("gohil2020", [("vgg19", "svhn")])
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
        "Differences in training (CIFAR-10 ticket; CIFAR-100 ticket; SGD on an Adam ticket): "
        "none that is known."
    )
    assert notes[2] == (
        "Differences in training (Adam on an SGD ticket): optimizer adam (here sgd), "
        "learning rate 0.0003 (here 0.1)."
    )
    svhn = published.notes(published.select("gohil2020", [("vgg19", "svhn")]), {"mine": GOHIL})
    assert "Their code flips SVHN's digits in training." in svhn
    assert "Their code flips SVHN's digits in training." not in notes
    assert published.notes([], {"mine": GOHIL}) == []
