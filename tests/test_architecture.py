"""The direction of imports, and what importing the package costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lottery_jax

PACKAGE = Path(lottery_jax.__file__).parent

# Each module may import those named here and what these may import; docs/architecture.md draws it.
MAY_IMPORT = {
    "terminal": set(),
    "errors": {"terminal"},
    "signals": set(),
    "files": {"errors", "signals"},
    "lock": {"errors", "files"},
    "masks": set(),
    "compilation": set(),
    "convolution": set(),
    "machine": {"errors"},
    "program_cache": {"errors"},
    "settings": set(),
    "scores": {"compilation", "masks"},
    "drawing": {"masks"},
    "layers": {"convolution"},
    "config": {"errors", "files"},
    "recipes": {"config", "errors"},
    "optim": {"errors"},
    "models": {"errors", "layers", "masks", "settings"},
    "tfds_source": {"errors"},
    "datasets": {"errors", "files", "machine", "tfds_source"},
    "streaming": {"datasets", "errors", "machine", "signals", "tfds_source"},
    "pipeline": {"errors", "machine"},
    "feeding": {"datasets", "pipeline", "streaming"},
    "replicates": {"pipeline"},
    "processes": {"errors", "machine", "signals"},
    "train": {"compilation", "errors", "masks", "optim", "pipeline", "replicates"},
    "paths": {"models", "settings"},
    "tickets": {"errors", "files", "masks", "machine", "models", "paths", "signals", "train"},
    "controls": {"masks", "train"},
    "logs": {"errors", "files"},
    "rundir": {"config", "datasets", "errors", "files", "lock", "logs", "tickets", "settings"},
    "transfer": {"config", "errors", "logs", "masks", "rundir", "scores", "tickets", "files"},
    "experiment": {"compilation", "config", "controls", "datasets", "drawing", "errors", "feeding", "masks",
                   "machine", "models", "optim", "pipeline", "processes", "replicates", "scores",
                   "streaming", "tickets", "train", "transfer", "files"},
    "units": {"config", "errors", "experiment", "files", "logs", "masks", "rundir", "settings",
              "tickets", "train"},
    "groups": {"errors", "experiment", "masks", "pipeline", "processes", "replicates", "rundir", "tickets",
               "train", "units"},
    "ladder": {"config", "controls", "drawing", "errors", "experiment", "groups", "lock", "logs", "masks",
               "files", "pipeline", "processes", "rundir", "scores", "settings", "tickets", "train",
               "transfer", "units"},
    "matrix": {"config", "errors", "experiment", "files", "ladder", "lock", "processes", "rundir",
               "settings", "transfer"},
    "figures": {"files"},
    "references": {"errors"},
    "report": {"errors", "figures", "files", "logs", "references"},
    "evaluate": {"errors", "feeding", "masks", "pipeline", "tickets", "train", "settings", "files"},
    "main": {"config", "errors", "experiment", "ladder", "machine", "matrix", "models", "processes",
             "files", "program_cache", "replicates", "report", "signals", "terminal"},
    "sweep": {"config", "errors", "experiment", "files", "lock", "logs", "machine", "matrix", "report",
              "rundir", "signals", "terminal", "tickets"},
}  # fmt: skip

# Third-party packages that one module alone may know.
ONLY = {"orbax": {"tickets"}, "tensorstore": {"tickets"}, "wandb": {"logs"},
        "tensorflow_datasets": {"tfds_source"}, "sklearn": {"datasets"}, "matplotlib": {"figures"},
        "absl": {"main", "streaming", "sweep"}, "grain": {"streaming"},
        "optax": {"optim", "scores", "train"}, "safetensors": {"tickets"}, "torch": {"tickets"},
        "submitit": {"sweep"}}  # fmt: skip


def imports_of(path):
    """(modules of the package, other top-level packages) that a file imports anywhere."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            if top == "lottery_jax":
                own.add(rest[0])
            else:
                others.add(top)
    return own, others


def files():
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if module != "__init__":
            yield module, path


@pytest.mark.parametrize(
    "module, path", list(files()), ids=lambda v: v if isinstance(v, str) else v.stem
)
def test_imports_go_one_way(module, path):
    own, others = imports_of(path)
    assert own - {module} <= MAY_IMPORT[module]
    for package, allowed in ONLY.items():
        assert package not in others or module in allowed, package


def test_the_map_has_no_circle_and_no_module_that_is_gone():
    assert set(MAY_IMPORT) == {module for module, _ in files()}
    done = set()
    while len(done) < len(MAY_IMPORT):
        free = {m for m, needs in MAY_IMPORT.items() if m not in done and needs <= done}
        assert free, set(MAY_IMPORT) - done
        done |= free


@pytest.mark.parametrize(
    "code, absent",
    [
        ("import lottery_jax", "jax flax numpy"),
        ("import lottery_jax.report", "jax flax matplotlib"),
        ("import lottery_jax.main", "jax flax"),
        ("import lottery_jax.streaming", "jax grain tensorflow tensorflow_datasets"),
        ("import lottery_jax.ladder", "wandb tensorflow tensorflow_datasets matplotlib sklearn"),
    ],
)
def test_imports_bring_in_nothing_that_is_not_needed(code, absent):
    check = f"import sys; {code}; print([m for m in {absent.split()!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_are_there():
    for name in lottery_jax.__all__:
        assert getattr(lottery_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lottery_jax.nonsense
