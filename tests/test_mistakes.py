"""Wrong command lines, configs and files: one line that helps, status 2, and nothing touched.

Each is a process of its own. The first of each command, and one with a variable that JAX reads when
it is imported, start as a user starts them; the others are forks of a process that has imported JAX.
"""

import gzip
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests import forks
from tests.helpers import COMPILE_QUICKLY, ROOT, some_arrays, write_idx

QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"
SHORT = ("--config.seeds=0", "--config.train.epochs=2", "--config.ladder.levels=1")
TICKET = "run/seed_0/level_01/ticket"
CPU_SECONDS = 10


class Mistake(NamedTuple):
    """A command, what its message must say, and what is there when it is given."""

    module: str
    arguments: tuple[str, ...]
    says: tuple[str, ...]
    given: Callable[[Path, Path], None] | None  # a fresh directory, a finished run
    env: dict[str, str]


def mistake(module, *arguments, says, given=None, **env):
    says = (says,) if isinstance(says, str) else says
    return Mistake(module, arguments, says, given, env)


def key(setting, *says, more=(), **options):
    """A value of the quickstart's config."""
    return mistake("main", QUICKSTART, f"--config.{setting}", *more, says=says, **options)


def config_file(text, *says):
    """A config file of the user's own."""

    def given(folder, run):
        head = "from lottery_jax.config import default_config\n"
        (folder / "mine.py").write_text(head + text)

    return mistake("main", "--config=mine.py", says=says, given=given)


def with_run(change=lambda run: None):
    """A copy of the finished run as `run`, changed."""

    def given(folder, run):
        shutil.copytree(run, folder / "run")
        change(folder / "run")

    return given


def source(*settings, says, change=lambda run: None):
    """A transfer from the finished run."""
    arguments = (QUICKSTART, *SHORT, "--config.source=run", *settings)
    return mistake("main", *arguments, says=says, given=with_run(change))


def workdir(*settings, says, change=lambda run: None, name="run"):
    """The finished run's directory as that of another one."""
    arguments = (QUICKSTART, *SHORT, f"--workdir={name}", *settings)
    return mistake("main", *arguments, says=says, given=with_run(change))


def npz(*says, change=lambda arrays: None, damage=lambda file: None):
    """A data set of the user's own."""

    def given(folder, run):
        arrays = some_arrays()
        change(arrays)
        np.savez_compressed(folder / "mine.npz", **arrays)
        damage(folder / "mine.npz")

    return key("data.name=mine", "mine.npz", *says, more=["--config.data.dir=."], given=given)


def idx(*says, damage):
    """Damaged files in MNIST's format."""

    def given(folder, run):
        write_idx(folder, some_arrays(), compress=False)
        damage(folder / "train-images-idx3-ubyte")

    return mistake("datasets", "--data_dir=.", "from-idx", ".", "mine", says=says, given=given)


def written(name, text):
    return lambda folder: (folder / name).write_text(text)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def damaged(file):
    """One bit of the compressed pixels is another."""
    raw = bytearray(file.read_bytes())
    raw[raw.index(b"x_train") + 200] ^= 1
    file.write_bytes(raw)


def gzip_bomb(file):
    header = b"\0\0\x08\x03" + bytes.fromhex("7fffffff 7fffffff 7fffffff")
    file.write_bytes(gzip.compress(header + bytes(10**6)))


def as_pipe(file):
    file.unlink()
    os.mkfifo(file)


def as_matrix(run):
    record = json.loads((run / "config.json").read_text())
    record["config"]["transfer"].update(sources=["digits_a"], targets=["digits_b"])
    (run / "config.json").write_text(json.dumps(record))


def edited(name, old, new):
    def change(run):
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return change


FLAGS = [
    mistake("main", says=("--config is missing", "--config=quickstart,")),
    mistake("main", "--config=nowhere.py", says="nowhere.py"),
    mistake(
        "main", "--config=quickstrt", says=("--config: 'quickstrt'", "did you mean quickstart")
    ),
    mistake("main", "--config=quickstart", "--dry_run=soon", says=("--dry_run=soon", "measure")),
    mistake(
        "main",
        "--config=quickstart",
        "--dry_run",
        "--config.train.batch_size=9999",
        says="config.train.batch_size",
    ),
    mistake("main", "--config=", says="--config"),
    mistake("main", f"--config={ROOT / 'setup.cfg'}", says="--config: can't be loaded"),
    mistake("main", f"--config={ROOT}", says=("--config: can't be loaded", str(ROOT))),
    mistake("main", QUICKSTART, "more", says=("unexpected argument 'more'", "--")),
    mistake("main", QUICKSTART, "--wrkdir=x", says=("wrkdir", "workdir")),
    mistake("main", QUICKSTART, "--workdir", says="--workdir"),
    key("seed=1", "unknown key 'seed' (did you mean 'seeds'?)"),
    key("ladder.level=1", "unknown key 'ladder.level' (did you mean 'ladder.levels'?)"),
    key("train=3", "config.train: is a group of keys", "train.epochs"),
    key("train.epochs.more=3", "did you mean 'train.epochs'?"),
    key("train.epochs", "--config.train.epochs"),
]
URLS = [
    key("seeds=0", "--workdir: s3://bucket/run is a URL of s3; name a local path",
        more=[*SHORT, "--workdir=s3://bucket/run"]),
    key("data.dir=gs://bucket/data", "config.data.dir: gs://bucket/data is a URL of gs"),
    key("data.name=cifar10", "TFDS_DATA_DIR: hf://org/name is a URL", TFDS_DATA_DIR="hf://org/name"),
    key("source=file://host/run", "config.source: file://host/run is a URL of file"),
    mistake("evaluate", "--ticket=s3://bucket/ticket", says="--ticket: s3://bucket/ticket is a URL"),
    mistake("tickets", "import", "https://host/a.pth", "mine", "--model=vgg11", "--data=digits",
            says="argument FILE: https://host/a.pth is a URL"),
    mistake("sweep", "run", QUICKSTART, "--workdir=gs://bucket/sweep", "--grid", "seeds=0,1",
            says="argument --workdir: gs://bucket/sweep is a URL"),
    mistake("datasets", "--data_dir=gs://bucket", "list", says="gs://bucket is a URL of gs"),
]  # fmt: skip
WRONG_TYPES = [
    key("train.epochs=many", "--config.train.epochs=many"),
    key("train.epochs=1.5", "--config.train.epochs=1.5"),
    key("train.batch_size=1e400", "--config.train.batch_size=1e400"),
    key("optimizer.learning_rate=fast", "--config.optimizer.learning_rate=fast"),
    key("ladder.skip_first=maybe", "--config.ladder.skip_first=maybe"),
    key("seeds=first", "config.seeds: ('first',)", "whole number"),
    key("seeds=0.5", "config.seeds: (0.5,)", "whole number"),
    key("optimizer.milestones=(nan,)", "config.optimizer.milestones", "above 0"),
    key("ladder.rewind=1", "config.ladder.rewind: 1", "'1ep' (epochs), '500st' (steps) or 0"),
    key("data.input_shape=(8,8)", "config.data.input_shape: (8, 8)", "height, width, channels"),
]
OUT_OF_RANGE = [
    key("seeds=-1", "config.seeds: (-1,)", "0 to 2**32 - 1"),
    key("seeds=99999999999999999999", "config.seeds", "0 to 2**32 - 1"),
    key("seeds=1,1", "config.seeds: (1, 1)", "no two the same"),
    key("train.epochs=0", "config.train.epochs: 0 is not a whole number", "1 or more"),
    key("train.epochs=1000000000000", "config.train.epochs", "2,147,483,647 at most"),
    key("train.epochs=99999999", "config.train.epochs: 99999999 epochs of 22 steps", "2147483647"),
    key("train.batch_size=-64", "config.train.batch_size: -64", "1 or more"),
    key("train.batch_size=100000000000000", "config.train.batch_size", "the 1438 training images"),
    key("train.eval_every_epochs=0", "config.train.eval_every_epochs: 0", "1 or more"),
    key("train.eval_every_steps=-5", "config.train.eval_every_steps: -5", "0 or more"),
    key("train.keep_epochs=0", "config.train.keep_epochs: (0,)", "-n for every n epochs"),
    key("train.checkpoint_every_epochs=-1", "checkpoint_every_epochs: -1", "0 or more"),
    key("optimizer.learning_rate=nan", "config.optimizer.learning_rate: nan", "above 0"),
    key("optimizer.learning_rate=inf", "config.optimizer.learning_rate: inf", "above 0"),
    key("optimizer.learning_rate=-0.1", "config.optimizer.learning_rate: -0.1", "above 0"),
    key("optimizer.learning_rate=1e40", "config.optimizer.learning_rate: 1e+40", "3.4e+38"),
    key("optimizer.learning_rate=1e-50", "config.optimizer.learning_rate: 1e-50", "1.2e-38"),
    key("optimizer.weight_decay=-1", "config.optimizer.weight_decay: -1.0", "0 or"),
    key("optimizer.weight_decay=1e300", "config.optimizer.weight_decay: 1e+300", "3.4e+38"),
    key("optimizer.momentum=1", "config.optimizer.momentum: 1.0", "[0, 1)"),
    key("optimizer.b2=0.9999999999", "config.optimizer.b2: 0.9999999999", "0.9999999 at most"),
    key("optimizer.decay=2", "config.optimizer.decay: 2.0", "[0, 1]"),
    key("model.width=nan", "config.model.width: nan", "above 0"),
    key("model.width=1e300", "config.model.width: 1e+300", "10,000 at most"),
    key("model.width=10000", "config.model.width: 10000", "weights", "GB to train"),
    key("data.validation_fraction=-0.1", "config.data.validation_fraction: -0.1", "[0, 1)"),
    key("data.validation_fraction=0.9999", "config.data.validation_fraction: 0.9999 of 1438"),
    key("data.validation_fraction=1e-9", "config.data.validation_fraction: 1e-09 of 1438"),
    key("data.input_shape=(100000,100000,3)", "config.data.input_shape", "53,910.0 GB"),
    key("data.input_shape=(8,8,-1)", "config.data.input_shape: (8, 8, -1)", "each 1 or more"),
    key("transfer.density=0", "config.transfer.density: 0.0", "a fraction above 0"),
    key("ladder.levels=-1", "config.ladder.levels: -1", "0 or more"),
    key("ladder.levels=1000000000", "config.ladder.levels: 1000000000", "1,000 at most"),
    key("ladder.prune_fraction=20", "config.ladder.prune_fraction: 20.0", "0.2 for 20 %"),
    key("ladder.rounds=1000000000", "config.ladder.rounds: 1000000000", "10,000 at most"),
    key(
        "ladder.score_batches=1000",
        "config.ladder.score_batches: 1000 batches of 64",
        "1438",
        more=["--config.ladder.scores=snip"],
    ),
    key(
        "ladder.score_batch_size=2000",
        "1 batches of 2000",
        "the 1438 training images",
        more=["--config.ladder.scores=grasp"],
    ),
]
DOES_NOT_FIT = [
    key("optimizer.milestones=25", "config.optimizer.milestones: 25", "config.train.epochs is 20"),
    key("optimizer.warmup_epochs=21", "config.optimizer.warmup_epochs: 21.0 is beyond", "is 20"),
    key("optimizer.warmup_epochs=1e300", "config.optimizer.warmup_epochs: 1e+300 is beyond"),
    key("ladder.rewind=20ep", "config.ladder.rewind: '20ep' is step 440", "ends at step 440"),
    key("ladder.rewind=999999999ep", "config.ladder.rewind: '999999999ep' is step"),
    key("ladder.sparsities=(0.5,0.4)", "config.ladder.sparsities", "does not rise"),
    key("ladder.sparsities=(0.5,0.9999999)", "no weight would be left at level 2", "of 50200"),
    key("ladder.sparsities=(1e-9,)", "config.ladder.sparsities: 1e-09 prunes none of the 50200"),
    key("ladder.prune_fraction=0.9999999", "no weight would be left at level 1", "at most 0 fit"),
    key("ladder.levels=200", "config.ladder.prune_fraction: 0.36 prunes none", "levels=24)"),
    key("control_levels=(100,)", "config.control_levels: there is no level 100", "levels is 9"),
    key("controls=init", "the control 'init' is the winning ticket itself",
        more=["--config.ladder.rewind=0"]),
    key("train.eval_every_steps=50", "config.train.eval_every_steps needs",
        "config.data.validation_fraction"),
    key("train.eval_untrained=maybe", "--config.train.eval_untrained=maybe"),
    key("ladder.retrain=lr", "config.ladder.retrain: 'lr'", "config.ladder.draw=init_nested",
        more=["--config.ladder.draw=init_nested"]),
    key("ladder.pretrained=nowhere", "config.ladder.pretrained: nowhere is neither a run directory"),
    key("ladder.pretrained=run/seed_0/level_01/ticket", "is pruned", "name a dense ticket (level 0)",
        given=with_run()),
    key("ladder.scores=erk", "config.ladder.scope: erk", "use 'global'",
        more=["--config.ladder.scope=layer"]),
    key("model.name=vgg11", "config.model.name: vgg11 does not take images of (8, 8, 1)",
        "config.data.input_shape"),
    key("model.stem=cifar", "config.model: lenet_300_100 does not take these options", "stem"),
    key("train.batch_size=60", "batch_size: 60 is not a multiple of the 8 devices; 64 would be",
        more=["--config.train.together=1"], XLA_FLAGS="--xla_force_host_platform_device_count=8"),
    key("seeds=0", "no device", "JAX_PLATFORMS", JAX_PLATFORMS="abacus"),
]  # fmt: skip
NAMES = [
    key("data.name=digitz", "config.data.name", "did you mean 'digits'"),
    key("data.name=../digits", "config.data.name: '../digits' is not a name"),
    key(f"data.name={'a' * 300}", "config.data.name", "up to 100 letters"),
    key("data.name=cifar10", "cifar-10-binary.tar.gz", "downloads/manual"),
    key("data.dir=~nosuchuser", "config.data.dir: ~nosuchuser"),
    key("data.augment=flop", "config.data.augment: unknown value 'flop' (did you mean 'flip'?)"),
    key("model.name=lenet", "config.model.name: unknown value 'lenet'", "lenet_300_100"),
    key("model.dtype=float16", "config.model.dtype: unknown value 'float16'", "bfloat16"),
    key("optimizer.name=adan", "config.optimizer.name: unknown value 'adan'", "'adam'"),
    key("optimizer.schedule=cosin", "config.optimizer.schedule", "did you mean 'cosine'"),
    key("ladder.scores=magnitud", "config.ladder.scores", "did you mean 'magnitude'"),
    key("ladder.retrain=finetun", "config.ladder.retrain", "did you mean 'finetune'"),
    key("ladder.draw=one_shot", "config.ladder.draw", "did you mean 'oneshot'"),
    key("controls=rndom", "config.controls: unknown value 'rndom'", "did you mean 'random'"),
    key("wandb.mode=of", "config.wandb.mode: unknown value 'of'", "offline"),
]
CONFIG_FILES = [
    config_file("def get_config(:\n", "--config: can't be loaded", "mine.py, line 2"),
    config_file("import nothing_of_that_name\n", "--config: can't be loaded", "nothing_of_that"),
    config_file(
        "def get_config():\n c = default_config(); c.train.epoch = 3\n return c\n",
        "unknown key 'train.epoch' (did you mean 'train.epochs'?)",
    ),
    config_file(
        "def get_config():\n c = default_config(); c.seeds = (True,)\n return c\n",
        "config.seeds: (True,)", "whole number",
    ),
    config_file(
        "from lottery_jax import recipes\ndef get_config():\n return recipes.vgg19('cifar')\n",
        "config.data.name: unknown value 'cifar'",
    ),
]  # fmt: skip
RAISING_CONFIG_FILES = [
    config_file("x = 1\n", "--config: can't be loaded: mine.py", "get_config"),
    config_file("def get_config():\n raise RuntimeError('boom')\n", "mine.py: RuntimeError: boom"),
    config_file("def get_config():\n return get_config()\n", "mine.py: RecursionError"),
    config_file("1 / 0\n", "mine.py: ZeroDivisionError: division by zero"),
    config_file("def get_config():\n pass\n", "get_config() in mine.py", "ConfigDict", "NoneType"),
    config_file("def get_config():\n return {}\n", "get_config() in mine.py", "and not dict"),
    config_file(
        "def get_config():\n c = default_config(); c.train.epochs = 'a'\n return c\n",
        "--config: can't be loaded: mine.py: TypeError", "'epochs'",
    ),
    key("seeds=0", "--workdir: is empty", more=[*SHORT, "--workdir="]),
    key("seeds=0", "--workdir: ~nosuchuser/run", more=["--workdir=~nosuchuser/run"]),
]  # fmt: skip
SOURCES = [
    key("source=nowhere", "config.source: nowhere is not a run directory", "run the source's"),
    key("source=~nosuchuser/run", "config.source: ~nosuchuser/run"),
    key(f"source={'a' * 5000}", "config.source", more=SHORT),
    source("--config.seeds=1", says=("config.source: run has no seed 1", "it has 0")),
    source("--config.model.name=conv2", says=("config.source: run has config.model.name",)),
    source("--config.model.width=2", says=("config.source", "model.width 1.0", "2.0")),
    source("--config.data.input_shape=(9,9,1)", says=("input_shape: (9, 9, 1)", "leave it empty")),
    source("--config.ladder.prune_fraction=0.5", says=("ladder.prune_fraction: 0.5", "0.36")),
    source(
        "--config.ladder.optimizer_state=restored",
        says=("config.ladder.optimizer_state", "use 'fresh'"),
    ),
    source(
        says=("config.source: run has no complete level 1 of seed 0", "lower config.ladder.levels"),
        change=lambda run: shutil.rmtree(run / "seed_0/level_01"),
    ),
    source(
        says="config.source: run has no complete level 1 of seed 0; run it to its end first",
        change=lambda run: (run / "seed_0/level_01/ticket/metadata.json").unlink(),
    ),
    source(
        says="config.source: run has no complete level 0 of seed 0",
        change=lambda run: shutil.rmtree(run / "seed_0"),
    ),
    source(
        says="run/seed_0/level_01/ticket/metadata.json: can't be read",
        change=written("seed_0/level_01/ticket/metadata.json", "{"),
    ),
    source(says="run: is not a run (config.json", change=written("config.json", "{")),
    source(says=("run", "unknown key 'a'"), change=written("config.json", '{"config": {"a": 1}}')),
    source(says=("config.source: run is a transfer matrix", "run/digits_a"), change=as_matrix),
    mistake(
        "main", QUICKSTART, *SHORT, "--config.source=run", "--config.data.name=four",
        "--config.data.dir=.", "--config.transfer.head=keep",
        "--config.train.batch_size=10",
        says=("config.transfer.head: 'keep'", "the ticket has 10, the target 4"),
        given=lambda folder, run: [
            with_run()(folder, run), np.savez(folder / "four.npz", **some_arrays())
        ],
    ),
]  # fmt: skip
MATRICES = [
    key("transfer.sources=digits_a", "config.transfer", "needs both", "config.transfer.targets"),
    key("transfer.targets=digits_a", "config.transfer", "needs both", "config.transfer.sources"),
    key("transfer.sources=digits_a", "did you mean 'digits'",
        more=["--config.transfer.targets=digits_z"]),
    key("transfer.sources=digits_a,digitsa", "config.transfer: a data set has two names",
        more=["--config.transfer.targets=digits_b"]),
    key("transfer.sources=digits_a", "config.data.name: '..' is not a name",
        more=["--config.transfer.targets=.."]),
    key("source=run", "config.source: a matrix makes its own sources",
        more=["--config.transfer.sources=digits_a", "--config.transfer.targets=digits_b"]),
]  # fmt: skip
WORKDIRS = [
    workdir(
        "--config.train.batch_size=50",
        says=("run: holds a run of another config", "config.train.batch_size: 64, 50", "--workdir"),
    ),
    workdir(
        says=("is neither empty nor a run", "choose another --workdir"), name="run/config.json"
    ),
    workdir(says=("is neither empty nor a run", "choose another --workdir"), name="run/seed_0"),
    workdir(says="run: is neither empty", change=lambda run: (run / "config.json").unlink()),
    workdir(says="run: is not a run (config.json", change=written("config.json", "{}")),
    workdir(says="run: is not a run (config.json", change=written("config.json", "[" * 100_000)),
]
DATA = [
    npz("images must be uint8", change=lambda a: a.update(x_train=a["x_train"] / 255)),
    npz("images must be uint8", change=lambda a: a.update(x_train=a["x_train"][..., 0, 0])),
    npz("x_train.transpose(0, 2, 3, 1)", change=lambda a: a.update(
        {k: a[k].transpose(0, 3, 1, 2) for k in ("x_train", "x_test")})),
    npz("each 1 or more", change=lambda a: a.update({k: v[:0] for k, v in a.items()})),
    npz("x_train is object", change=lambda a: a.update(x_train=np.array([{}], object))),
    npz("labels must be integers", change=lambda a: a.update(y_test=a["y_test"] + 0.5)),
    npz("y_test has 9 labels", "the 10 images", change=lambda a: a.update(y_test=a["y_test"][1:])),
    npz("y_train has the label -1", change=lambda a: a.update(y_train=a["y_train"] - 1)),
    npz("y_test has the label 9", "outside 0..3", change=lambda a: a.update(y_test=a["y_test"] + 9)),
    npz("no training image is of class 1", "up to 3",
        change=lambda a: a.update(y_train=np.where(a["y_train"] == 1, 2, a["y_train"]))),
    npz("no training image is of class 4", f"up to {10**15}", "without a gap",
        change=lambda a: a["y_train"].__setitem__(-1, 10**15)),
    npz("(6, 6, 1)", "(5, 6, 1)", "differ in shape",
        change=lambda a: a.update(x_test=a["x_test"][:, :5])),
    npz("has no array y_train", "it needs x_train", change=lambda a: a.pop("y_train")),
    npz("can't be read as npz", damage=cut),
    npz("can't be read as npz", damage=damaged),
    npz("can't be read as npz", damage=lambda file: file.write_bytes(b"")),
    npz("can't be read as npz", "not a zip file", damage=lambda file: file.write_text("x,y")),
]  # fmt: skip
EVALUATE = [
    mistake("evaluate", says=("--ticket", "--help")),
    mistake("evaluate", "--ticket=nowhere", says="nowhere: is not a ticket"),
    mistake("evaluate", "--ticket=run", says="run: is not a ticket", given=with_run()),
    mistake("evaluate", f"--ticket={TICKET}", "--dta=digits", says="--dta=digits",
            given=with_run()),
    mistake("evaluate", f"--ticket={TICKET}", "--data=digitz", says="did you mean 'digits'",
            given=with_run()),
    mistake("evaluate", f"--ticket={TICKET}", "--epoch=3", given=with_run(),
            says=(f"{TICKET}: epoch 3 was not kept", "config.train.keep_epochs")),
    mistake("evaluate", "--ticket=theirs.pth", says="theirs.pth: is not a ticket; for a PyTorch file give"),
    mistake("evaluate", "--ticket=theirs.pth", "--model=vgg19", "--data=cifar10",
            says="theirs.pth: is not a file"),
    mistake("evaluate", "--ticket=theirs.pth", "--model=vgg19", "--data=cifar10", "--std=0",
            says="--std must be above 0"),
    mistake("evaluate", f"--ticket={TICKET}", "--names=order", given=with_run(),
            says=("--names: is for PyTorch files", TICKET)),
    mistake("evaluate", f"--ticket={TICKET}", says=f"{TICKET}/metadata.json: can't be read",
            given=with_run(written("seed_0/level_01/ticket/metadata.json", "{"))),
]  # fmt: skip
REPORT = [
    mistake("report", says=("WORKDIR", "--help")),
    mistake("report", "nowhere", says="nowhere: is not a run"),
    mistake("report", "run", "--density=0.1", says=("--density", "run is a run"), given=with_run()),
    mistake("report", "run", "--density=few", says="--density", given=with_run()),
    mistake("report", "run", "--reference=nobody", says=("--reference", "'nobody'", "gohil2020"),
            given=with_run()),
    mistake("report", "run", says="run: is not a run", given=with_run(written("config.json", "{"))),
    mistake("report", "run", says="run: is not a run",
            given=with_run(written("config.json", "[" * 100_000))),
    mistake("report", "run", says="run: no level is complete yet",
            given=with_run(written("curve.csv", ""))),
    mistake("report", "run", says=("run: is not a run", "field larger"),
            given=with_run(edited("curve.csv", "0,0,winning", "9" * 200_000))),
    mistake("report", "run", says=("run: is not a run", "curve.csv has density nan"),
            given=with_run(edited("curve.csv", ",1.0,", ",nan,"))),
]  # fmt: skip
DATASETS = [
    mistake("datasets", says=("command", "--help")),
    mistake("datasets", "fetch", says="'fetch'"),
    mistake("datasets", "prepare", "mnist", says=("'mnist'", "fashion_mnist")),
    mistake("datasets", "--data_dir=mine", "prepare", "imagenet2012",
            says=("put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into mine/downloads",)),
    mistake("datasets", "--data_dir=mine", "list", says="--data_dir: mine is not a directory",
            given=lambda folder, run: (folder / "mine").write_text("")),
    mistake("datasets", "from-idx", "nowhere", "mine", says="nowhere: has no train-images-idx3"),
    mistake("datasets", "from-idx", ".", "../mine", says="'../mine' is not a name"),
    mistake("datasets", "from-idx", ".", "digits", says=("digits is built in", "a new name")),
    idx("train-images-idx3-ubyte", "cut short", damage=cut),
    idx("train-images-idx3-ubyte: is not an idx file", damage=lambda file: file.write_text("idx")),
    idx("train-images-idx3-ubyte", "can't hold", damage=gzip_bomb),
    idx("train-images-idx3-ubyte", "is not a regular file", damage=as_pipe),
]  # fmt: skip
TICKETS = [
    mistake("tickets", says=("COMMAND", "--help")),
    mistake("tickets", "frob", says="'frob'"),
    mistake("tickets", "show", "nowhere", says="nowhere: is not a ticket"),
    mistake("tickets", "verify", "run/report", says="run/report: no ticket is there or below",
            given=with_run()),
    mistake("tickets", "export", TICKET, "ticket.onnx", says=("ticket.onnx", ".safetensors"),
            given=with_run()),
    mistake("tickets", "export", TICKET, "run/config.safetensors",
            says=("run/config.safetensors: is there already", "--force"),
            given=with_run(written("config.safetensors", ""))),
    mistake("tickets", "import", "mine.safetensors", "new", says="mine.safetensors: is not",
            given=lambda folder, run: (folder / "mine.safetensors").write_bytes(b"\xff" * 99)),
    mistake("tickets", "import", "mine.pth", "new", "--model=vgg11", "--data=cifar10", says="mine.pth",
            given=lambda folder, run: (folder / "mine.pth").write_text("weights")),
    mistake("tickets", "import", "mine.pth", "new", "--model=vgg11", "--data=cifar10", "--mean=0.5",
            says="--mean and --std must be 3 numbers"),
    mistake("tickets", "import", "mine.pth", "new", "--model=vgg11", "--data=cifar10", "--names=fc1",
            says="argument --names: 'fc1' is not like dense1=fc1"),
    mistake("tickets", "export", TICKET, "mine.safetensors", "--format=prune", given=with_run(),
            says="--format, --names and --flatten are for .pth and .pt"),
    mistake("tickets", "export", TICKET, "mine.pth", "--names=dens1=fc1", given=with_run(),
            says=("names: modules of", "did you mean 'dense1'")),
]  # fmt: skip
MISTAKES = [
    *FLAGS, *URLS, *WRONG_TYPES, *OUT_OF_RANGE, *DOES_NOT_FIT, *NAMES, *CONFIG_FILES,
    *RAISING_CONFIG_FILES, *SOURCES, *MATRICES, *WORKDIRS, *DATA, *EVALUATE, *REPORT, *DATASETS, *TICKETS,
]  # fmt: skip
# The first of each command, one that is found when JAX and the data are there, and one whose
# variable JAX reads when it is imported.
FIRST = [
    DOES_NOT_FIT[0],
    *(m for m in MISTAKES if "JAX_PLATFORMS" in m.env),
    *(next(m for m in MISTAKES if m.module == module) for module in
      ("main", "evaluate", "report", "datasets", "tickets", "sweep")),
]  # fmt: skip


def named(mistake):
    settings = [a.removeprefix("--config.") for a in mistake.arguments if a != QUICKSTART]
    return f"{mistake.module} {' '.join(settings)}"[:60]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """The run directory of a short ladder, which mistakes are made with."""
    folder = tmp_path_factory.mktemp("finished")
    made = command("main", QUICKSTART, *SHORT, "--workdir=run")
    result = forks.run(made, environment(), folder, XLA_FLAGS=COMPILE_QUICKLY)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def environment():
    """What a user's process has around it."""
    # A config file in the directory would leave Python's cache of it there.
    usual = {
        "JAX_COMPILATION_CACHE_DIR": os.environ["LOTTERY_JAX_TESTS_CACHE"],
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | usual


def command(module, *arguments):
    return [sys.executable, "-m", f"lottery_jax.{module}", *arguments]


def start(command, env, cwd):
    """Runs a command to its end, as a user does."""
    used = cpu_seconds()
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env=env)
    return forks.Result(result.returncode, result.stdout, result.stderr, cpu_seconds() - used)


def init_state(folder):
    """Every path below, what kind it is, when it was changed, and what is in it."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        about = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        found[path] = about.st_mode, about.st_mtime_ns, about.st_size, digest
    return found


def cpu_seconds():
    """That this process's children have used, of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("mistake", MISTAKES, ids=named)
def test_a_mistake_is_one_line_that_helps_and_nothing_is_touched(tmp_path, finished_run, mistake):
    if mistake.given:
        mistake.given(tmp_path, finished_run)
    before = init_state(tmp_path)
    given = command(mistake.module, *mistake.arguments)
    data = {"TFDS_DATA_DIR": str(tmp_path / "data")}
    more = data | mistake.env
    if mistake in FIRST:
        result = start(given, environment() | more, tmp_path)
    else:
        result = forks.run(given, environment(), tmp_path, **more)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    message = result.stderr.removesuffix("\n")
    assert message.isprintable() and "Traceback" not in message
    for text in mistake.says:
        assert text in message, message
    assert init_state(tmp_path) == before
    assert result.cpu_seconds < CPU_SECONDS
