"""Find winning lottery tickets, compare them with honest controls, keep and share them.

    import lottery_jax as lj

    rows = lj.run_ladder(lj.recipes.quickstart(), "runs/quickstart")
    ticket = lj.load_ticket("runs/quickstart/seed_0/level_09/ticket")

Names are imported when they are first used, so importing the package costs nothing that is not
needed.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "build_model": "models",
    "default_config": "config",
    "evaluate_ticket": "evaluate",
    "fit": "train",
    "load_dataset": "datasets",
    "load_ticket": "tickets",
    "make_program": "train",
    "open_stream": "streaming",
    "run_ladder": "ladder",
    "run_matrix": "matrix",
    "save_ticket": "tickets",
    "set_up": "experiment",
    "start_state": "train",
    "Ticket": "tickets",
    "TrainState": "train",
    "write_report": "report",
}
_MODULES = (
    "config",
    "controls",
    "datasets",
    "drawing",
    "errors",
    "experiment",
    "ladder",
    "masks",
    "matrix",
    "models",
    "optim",
    "paths",
    "pipeline",
    "recipes",
    "report",
    "rundir",
    "scores",
    "streaming",
    "tickets",
    "train",
    "transfer",
    "units",
)

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
