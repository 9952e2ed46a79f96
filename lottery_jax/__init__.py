"""Find winning lottery tickets, compare them with honest controls, keep and share them.

    import lottery_jax as lj

    rows = lj.run_ladder(lj.recipes.quickstart(), "runs/quickstart")
    ticket = lj.load_ticket("runs/quickstart/seed_0/level_09/ticket")

Names are imported when they are first used, so importing the package costs nothing that is not
needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that type checkers and editors see what is imported when it is used
    from lottery_jax import config as config
    from lottery_jax import datasets as datasets
    from lottery_jax import errors as errors
    from lottery_jax import models as models
    from lottery_jax import recipes as recipes
    from lottery_jax import report as report
    from lottery_jax import tickets as tickets
    from lottery_jax.config import default_config as default_config
    from lottery_jax.datasets.dataset import Dataset as Dataset
    from lottery_jax.datasets.in_memory import load_dataset as load_dataset
    from lottery_jax.datasets.streams import open_stream as open_stream
    from lottery_jax.evaluate import evaluate_ticket as evaluate_ticket
    from lottery_jax.models import build_model as build_model
    from lottery_jax.models import networks as networks
    from lottery_jax.models.network import LinenNetwork as LinenNetwork
    from lottery_jax.models.network import Network as Network
    from lottery_jax.opened import open_run as open_run
    from lottery_jax.pruning import connectivity as connectivity
    from lottery_jax.pruning import controls as controls
    from lottery_jax.pruning import masks as masks
    from lottery_jax.pruning import matching as matching
    from lottery_jax.pruning import permutations as permutations
    from lottery_jax.pruning import schedule as schedule
    from lottery_jax.pruning import scores as scores
    from lottery_jax.pruning.controls import register_control as register_control
    from lottery_jax.pruning.scores import register_score as register_score
    from lottery_jax.pruning.transform import keep_masked as keep_masked
    from lottery_jax.report import write_report as write_report
    from lottery_jax.runs import directory as directory
    from lottery_jax.runs import experiment as experiment
    from lottery_jax.runs import ladder as ladder
    from lottery_jax.runs import matrix as matrix
    from lottery_jax.runs import transfer as transfer
    from lottery_jax.runs import trials as trials
    from lottery_jax.runs.experiment import set_up as set_up
    from lottery_jax.runs.ladder import run_ladder as run_ladder
    from lottery_jax.runs.matrix import run_matrix as run_matrix
    from lottery_jax.tickets import Ticket as Ticket
    from lottery_jax.tickets import load_ticket as load_ticket
    from lottery_jax.tickets import save_ticket as save_ticket
    from lottery_jax.training import batches as batches
    from lottery_jax.training import loop as loop
    from lottery_jax.training import optim as optim
    from lottery_jax.training import tasks as tasks
    from lottery_jax.training.loop import fit as fit
    from lottery_jax.training.optim import register_optimizer as register_optimizer
    from lottery_jax.training.optim import register_schedule as register_schedule
    from lottery_jax.training.program import init_device_state as init_device_state
    from lottery_jax.training.program import make_program as make_program
    from lottery_jax.training.state import TrainState as TrainState
    from lottery_jax.training.task import Task as Task

__version__ = "0.2.0"

# A public name -> the module that defines it.
_NAMES = {
    "build_model": "models",
    "Dataset": "datasets.dataset",
    "default_config": "config",
    "evaluate_ticket": "evaluate",
    "fit": "training.loop",
    "keep_masked": "pruning.transform",
    "load_dataset": "datasets.in_memory",
    "LinenNetwork": "models.network",
    "load_ticket": "tickets",
    "make_program": "training.program",
    "Network": "models.network",
    "open_run": "opened",
    "open_stream": "datasets.streams",
    "register_control": "pruning.controls",
    "register_optimizer": "training.optim",
    "register_schedule": "training.optim",
    "register_score": "pruning.scores",
    "run_ladder": "runs.ladder",
    "run_matrix": "runs.matrix",
    "save_ticket": "tickets",
    "set_up": "runs.experiment",
    "init_device_state": "training.program",
    "Task": "training.task",
    "Ticket": "tickets",
    "TrainState": "training.state",
    "write_report": "report",
}
# A public module -> where it is.
_MODULES = {
    "batches": "training.batches",
    "config": "config",
    "connectivity": "pruning.connectivity",
    "controls": "pruning.controls",
    "datasets": "datasets",
    "directory": "runs.directory",
    "errors": "errors",
    "experiment": "runs.experiment",
    "ladder": "runs.ladder",
    "loop": "training.loop",
    "masks": "pruning.masks",
    "matching": "pruning.matching",
    "matrix": "runs.matrix",
    "models": "models",
    "networks": "models.networks",
    "optim": "training.optim",
    "permutations": "pruning.permutations",
    "recipes": "recipes",
    "report": "report",
    "schedule": "pruning.schedule",
    "tasks": "training.tasks",
    "scores": "pruning.scores",
    "tickets": "tickets",
    "transfer": "runs.transfer",
    "trials": "runs.trials",
}
# Names that modules had before 0.2.
_FORMER = {
    "drawing": "pruning.schedule",
    "paths": "pruning.connectivity",
    "pipeline": "training.batches",
    "rundir": "runs.directory",
    "streaming": "datasets.streams",
    "train": "training.loop",
    "units": "runs.trials",
}
_FORMER_NAMES = {"start_state": "init_device_state"}

__all__ = sorted([*_NAMES, *_MODULES])


def __getattr__(name: str) -> Any:
    name = _FORMER_NAMES.get(name, name)
    if module := _MODULES.get(name) or _FORMER.get(name):
        return importlib.import_module(f"{__name__}.{module}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
