"""The methods that draw tickets: how recipes call them, what a config says, how reports show them."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """A method that draws tickets.

    Attributes:
        draw: `config.ladder.draw`, which weights are ranked.
        scores: `config.ladder.scores`, by what they are ranked.
        label: its name in figures, tables and cards.
    """

    draw: str
    scores: str
    label: str


METHODS = {
    "imp": Method("iterative", "magnitude", "IMP"),
    "oneshot": Method("oneshot", "magnitude", "one-shot magnitude"),
    "snip": Method("init", "snip", "SNIP"),
    "iterative_snip": Method("init_nested", "snip", "iterative SNIP"),
    "grasp": Method("init", "grasp", "GraSP"),
    "synflow": Method("init", "synflow", "SynFlow"),
    "magnitude_at_init": Method("init", "magnitude_at_init", "magnitude at init"),
    "random": Method("init", "random", "random pruning"),
    "erk": Method("init", "erk", "ERK"),
}
# config.ladder.retrain -> what is added to the name of the method.
_RETRAINED = {"lr": ", rate rewound", "finetune": ", fine-tuned"}
_LABELS = {(method.draw, method.scores): method.label for method in METHODS.values()}


def method_label(draw: str, scores: str, retrain: str = "") -> str:
    """Return the name under which a way to draw tickets, and to train them, is shown.

    >>> method_label("init_nested", "snip"), method_label("oneshot", "movement")
    ('iterative SNIP', 'movement, oneshot')
    >>> method_label("iterative", "magnitude", "lr")
    'IMP, rate rewound'
    """
    return _LABELS.get((draw, scores), f"{scores}, {draw}") + _RETRAINED.get(retrain, "")
