"""The direction of imports, and what importing the package costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lottery_jax

PACKAGE = Path(lottery_jax.__file__).parent

# Each room (or file at the top) may import from those named here; docs/architecture.md draws it.
# All may import `types` and the package's version.
ROOMS = {
    "types": set(),
    "leaves": {"types"},
    "errors": set(),
    "curve": set(),
    "methods": set(),
    "system": {"errors"},
    "models": {"errors", "leaves", "system", "types"},
    "config": {"errors", "system"},
    "recipes": {"config", "errors", "methods"},
    "catalogue": {"config", "datasets", "models", "pruning"},
    "cli": {"catalogue", "system"},
    "__main__": {"cli"},
    "datasets": {"errors", "system"},
    "parallel": {"errors", "system", "types"},
    "pruning": {"errors", "leaves", "models", "system", "types"},
    "report": {"curve", "errors", "methods", "system"},
    "training": {"curve", "datasets", "errors", "models", "parallel", "pruning", "system", "types"},
    "tickets": {"curve", "errors", "leaves", "methods", "models", "pruning", "system", "types"},
    "runs": {"config", "curve", "datasets", "errors", "leaves", "models", "parallel", "pruning", "system",
             "tickets", "training", "types"},
    "analysis": {"curve", "errors", "models", "parallel", "pruning", "runs", "system", "tickets",
                 "training", "types"},
    "analyse": {"analysis", "errors", "report", "runs", "system"},
    "evaluate": {"curve", "datasets", "errors", "leaves", "models", "parallel", "pruning", "system",
                 "tickets", "training"},
    "opened": {"config", "curve", "errors", "models", "report", "runs", "sweep", "system", "tickets"},
    "main": {"config", "errors", "parallel", "report", "runs", "system"},
    "sweep": {"config", "curve", "errors", "report", "runs", "system", "tickets"},
    "reproduce": {"analysis", "config", "curve", "errors", "pruning", "recipes", "report", "runs",
                  "sweep", "system", "tickets"},
}  # fmt: skip

# Third-party packages that these files or rooms alone may know.
ONLY = {"orbax": {"tickets/orbax_io.py"}, "tensorstore": {"tickets"}, "wandb": {"runs/tracking.py"},
        "tensorboard": {"runs/tracking.py"}, "trackio": {"runs/tracking.py"},
        "tensorflow_datasets": {"datasets/tfds.py"}, "sklearn": {"datasets/in_memory.py"},
        "matplotlib": {"report/axes.py", "report/claims.py", "report/figures.py", "report/heat.py",
                       "report/layers.py", "report/pixels.py", "report/steps.py", "report/training.py"},
        "grain": {"datasets/workers.py", "datasets/libraries.py"},
        "absl": {"main.py", "datasets/workers.py", "sweep"}, "optax": {"training", "pruning"},
        "safetensors": {"tickets"}, "torch": {"tickets"}, "submitit": {"sweep/jobs.py"},
        "filelock": {"system/locks.py"}, "huggingface_hub": {"tickets/hub.py"},
        "datasets": {"datasets/libraries.py"}}  # fmt: skip


def imports_of(path, package="lottery_jax"):
    """(names within the package, other top-level packages) that a file imports anywhere."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            (own.add(rest) if top == package else others.add(top))
    return own, others


def files():
    """(room, path) of every file but the package's table of public names."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "__init__.py":
            yield path.relative_to(PACKAGE).with_suffix("").parts[0], path


def dotted(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize(
    "room, path", list(files()), ids=lambda v: v if isinstance(v, str) else v.stem
)
def test_imports_go_one_way_between_rooms(room, path):
    own, others = imports_of(path)
    assert {name.split(".")[0] for name in own} - {room, "types", "__version__"} <= ROOMS[room]
    place = path.relative_to(PACKAGE).as_posix()
    for package, allowed in ONLY.items():
        assert package not in others or {place, place.split("/")[0]} & allowed, package


def sorted_out(needs):
    """Whether names can be put in an order in which each comes after those it needs."""
    done = set()
    while len(done) < len(needs):
        free = {name for name, those in needs.items() if name not in done and those <= done}
        if not free:
            return set(needs) - done
        done |= free
    return set()


def test_the_mathematics_of_pruning_stands_alone():
    """Masks, scores and schedules import no network, no loss and no other room."""
    mathematics = {"masks", "scores", "schedule", "split"}
    for name in mathematics:
        own, others = imports_of(PACKAGE / "pruning" / f"{name}.py")
        rooms = {tuple(target.split(".")[:2]) for target in own}
        pure = {("pruning", name) for name in mathematics - {"scores", "schedule"}}
        rooms = {room for room in rooms if room[0] != "leaves"}
        assert rooms <= pure | {("types", "PyTree")}
        assert not others & {"flax", "optax"}


def test_rooms_have_no_circle_and_none_is_gone():
    assert set(ROOMS) == {room for room, _ in files()}
    assert not sorted_out(ROOMS)


def test_files_have_no_circle():
    """Within rooms, too; a package stands for its `__init__.py`, which its own files may not import."""
    modules = {dotted(path): path for _, path in files()}

    def module_of(name):
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    needs = {
        module: {module_of(name) for name in imports_of(path)[0]} - {"", module}
        for module, path in modules.items()
    }
    assert not sorted_out(needs)


def test_reports_need_no_jax():
    for room, path in files():
        if room == "report":
            assert not {"jax", "flax", "optax", "orbax"} & imports_of(path)[1]


def test_processes_are_controlled_with_plain_functions():
    """A function within another one hides what it takes along from those who read it."""
    control = {"run_on_primary", "broadcast_from_primary", "run_on_all"}
    for _, path in files():
        if dotted(path) in ("runs.store", "parallel.multihost"):
            continue
        tree = ast.parse(path.read_text())
        at_the_top = {id(node) for node in tree.body}
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        methods = {
            id(node)
            for each in ast.walk(tree)
            if isinstance(each, ast.ClassDef)
            for node in each.body
        }
        nested = {f.name for f in functions if id(f) not in at_the_top | methods}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            called = getattr(call.func, "attr", getattr(call.func, "id", None))
            if called in control:
                first = call.args[0]
                assert not isinstance(first, ast.Lambda), path
                assert getattr(first, "id", None) not in nested, path


def test_what_several_tests_use_is_in_no_test_module():
    for path in Path(__file__).parent.rglob("*.py"):
        modules = {part for name in imports_of(path, "tests")[0] for part in name.split(".")}
        assert not {name for name in modules if name.startswith("test_")}, path


def test_a_file_is_read_at_one_sitting():
    lengths = {path: len(path.read_text().splitlines()) for _, path in files()}
    assert not {path: length for path, length in lengths.items() if length > 380}


@pytest.mark.parametrize(
    "code, absent",
    [
        ("import lottery_jax", "jax flax numpy"),
        ("import lottery_jax.report", "jax flax matplotlib"),
        ("import lottery_jax.main", "jax flax"),
        ("import lottery_jax.datasets", "jax grain tensorflow tensorflow_datasets"),
        ("import lottery_jax.runs.ladder", "wandb tensorflow tensorflow_datasets matplotlib sklearn"),
    ],
)  # fmt: skip
def test_imports_bring_in_nothing_that_is_not_needed(code, absent):
    check = f"import sys; {code}; print([m for m in {absent.split()!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_are_there():
    for name in lottery_jax.__all__:
        assert getattr(lottery_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lottery_jax.nonsense


def test_type_checkers_see_the_public_names():
    """Those that are imported when they are used are imported for type checkers too, as public."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname for node in block.body for alias in node.names}
    assert seen == set(lottery_jax.__all__)


def test_names_of_modules_from_before_are_still_there():
    """Scripts and notebooks say `lj.rundir`; each is the module that has another name now."""
    for name in ("drawing", "paths", "pipeline", "rundir", "streaming", "train", "units"):
        assert getattr(lottery_jax, name).__name__.startswith("lottery_jax.")
    assert lottery_jax.start_state is lottery_jax.init_device_state
