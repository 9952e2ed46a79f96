"""Who may go on with a run directory: the same config, versions and settings."""

import json
import os
import subprocess

import jax
import pytest

from lottery_jax import load_dataset, run_ladder, tickets
from lottery_jax.errors import ConfigError
from lottery_jax.runs import directory, ladder, record
from tests.helpers import make_tiny_config


@pytest.fixture
def begun(tmp_path):
    """A directory in which a run of `make_tiny_config()` has begun."""
    data_sha256 = tickets.tree_hash(load_dataset("digits").arrays)
    record.record_config(tmp_path, rundir_config(), data_sha256)
    return tmp_path


def rundir_config(**overrides):
    from lottery_jax.runs.transfer import resolve

    return resolve(make_tiny_config(**overrides))


def rewrite(workdir, **changes):
    file = workdir / "config.json"
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, **changes}))
    return written


def test_the_same_config_and_versions_may_go_on(begun):
    record.check_workdir(begun, rundir_config())


def test_what_can_not_change_a_result_may_differ(begun):
    overrides = {
        "wandb.mode": "offline",
        "wandb.project": "elsewhere",
        "train.checkpoint_every_epochs": 7,
        "data.dir": "moved",
    }
    record.check_workdir(begun, rundir_config(**overrides))


def test_another_config_is_refused_with_the_keys_that_differ(begun):
    other = rundir_config(
        **{"optimizer.learning_rate": 0.5, "train.epochs": 3, "wandb.project": "elsewhere"}
    )
    with pytest.raises(ConfigError) as error:
        record.check_workdir(begun, other)
    assert "learning_rate: 0.1, 0.5; config.train.epochs: 2, 3; choose another" in str(error.value)
    assert "wandb" not in str(error.value)


def test_other_settings_of_jax_are_refused_and_named_unless_that_is_asked_for(begun, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_dump_to=elsewhere")
    record.check_workdir(begun, rundir_config())  # that changes no result
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops --xla_cpu_enable_fast_math=true")
    with jax.default_matmul_precision("highest"):
        with pytest.raises(ConfigError) as error:
            record.check_workdir(begun, rundir_config())
        for says in (
            "--xla_cpu_enable_fast_math: not set, true; --xla_gpu_deterministic_ops: not set, true",
            "jax_default_matmul_precision: None, highest",
            "--other_versions",
        ):
            assert says in str(error.value)
        record.check_workdir(begun, rundir_config(), other_versions=True)
        record.record_versions(begun)
    written = json.loads((begun / "config.json").read_text())
    resumed = written["resumed_with"][0]["settings"]
    assert resumed["jax_default_matmul_precision"] == "highest"
    assert written["settings"]["jax_default_matmul_precision"] == "None"


def test_a_run_begun_before_settings_were_recorded_goes_on(begun):
    written = json.loads((begun / "config.json").read_text())
    del written["settings"]
    (begun / "config.json").write_text(json.dumps(written))
    with jax.default_matmul_precision("highest"):
        record.check_workdir(begun, rundir_config())


def test_other_versions_are_refused_and_named_unless_that_is_asked_for(begun, quiet, monkeypatch):
    versions = json.loads((begun / "config.json").read_text())["versions"]
    rewrite(begun, versions={**versions, "jax": "0.9.9", "lottery_jax": "0.0.1", "wandb": "1"})
    with pytest.raises(ConfigError) as error:
        record.check_workdir(begun, rundir_config())
    says = f"lottery_jax: 0.0.1, {versions['lottery_jax']}; jax: 0.9.9, {versions['jax']}; install"
    assert says in str(error.value) and "--other_versions" in str(error.value)

    before = (begun / "config.json").read_bytes()
    with pytest.raises(ConfigError):
        run_ladder(rundir_config(), begun, console=quiet)
    assert (begun / "config.json").read_bytes() == before

    # Asked for, the run goes on, and says who did.
    monkeypatch.setattr(ladder, "run_levels", lambda *args: None)
    for _ in range(2):
        run_ladder(rundir_config(), begun, console=quiet, other_versions=True)
    written = json.loads((begun / "config.json").read_text())
    assert written["versions"]["jax"] == "0.9.9"
    assert written["resumed_with"] == [versions]


def test_a_run_of_a_version_that_computes_the_same_goes_on(begun):
    rewrite(begun, versions={**record.versions(rundir_config()), "lottery_jax": "0.1.0"})
    record.check_workdir(begun, rundir_config())


def test_a_finished_run_may_be_looked_at_by_any_version(begun, monkeypatch):
    rewrite(begun, versions={"lottery_jax": "0.0.1"})
    monkeypatch.setattr(directory.tickets, "is_complete", lambda path: True)
    record.check_workdir(begun, rundir_config())


@pytest.mark.parametrize("version", [1, 99, None, "2"])
def test_a_directory_of_another_format_is_refused(begun, version):
    rewrite(begun, format_version=version)
    with pytest.raises(
        ConfigError, match=f"format {version}, here {record.FORMAT_VERSION}.*choose"
    ):
        record.check_workdir(begun, rundir_config())


def test_a_run_of_a_version_with_other_keys_is_refused_with_them(begun):
    """And where its config must be understood, as a source's, that is said too."""
    config = json.loads((begun / "config.json").read_text())["config"]
    config["ladder"]["momentum_of_masks"] = 0.5
    del config["train"]["eval_every_epochs"]
    rewrite(begun, config=config)
    with pytest.raises(ConfigError) as error:
        record.check_workdir(begun, rundir_config())
    assert "config.ladder.momentum_of_masks: 0.5, None" in str(error.value)
    assert "config.train.eval_every_epochs: None, 1" in str(error.value)
    with pytest.raises(ConfigError, match="was made by lottery_jax .*momentum_of_masks"):
        record.read_config(begun)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"config": 3}',
        '{"config": {}}',
        "[" * 5000,
        '{"config": {"a.b": 1}}',
    ],
)
def test_a_config_that_can_not_be_read_is_refused(begun, text):
    (begun / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=str(begun)):
        record.check_workdir(begun, rundir_config())
    with pytest.raises(ConfigError, match=str(begun)):
        record.read_config(begun)


def test_a_directory_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="neither empty nor a run"):
        record.check_workdir(tmp_path, rundir_config())


def test_what_a_process_killed_at_its_start_leaves_is_not_in_the_way(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.host-1-abcd1234.tmp").touch()
    record.check_workdir(tmp_path, rundir_config())


CLUTTER = (".DS_Store", "._x", "slurm-17.out", "run.log", "job.o17.err", "job.out", ".gitkeep",
           ".nfs0001", "Thumbs.db", "lost+found")  # fmt: skip


def test_what_systems_leave_in_a_folder_does_not_make_it_somebodys(tmp_path):
    """Batch systems open their logs in the run directory before the run begins."""
    for name in CLUTTER[:-1]:
        (tmp_path / name).write_text("")
    (tmp_path / CLUTTER[-1]).mkdir()
    record.check_workdir(tmp_path, rundir_config())
    (tmp_path / "results.csv").write_text("")
    with pytest.raises(ConfigError, match="neither empty nor a run"):
        record.check_workdir(tmp_path, rundir_config())


def test_the_git_commit_a_checkout_and_of_a_worktree_is_that_of_git(tmp_path):
    def git(*arguments, folder):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True
        ).stdout

    main, worktree = tmp_path / "main", tmp_path / "worktree"
    main.mkdir()
    git("init", "--quiet", folder=main)
    git("commit", "--quiet", "--allow-empty", "-m", "one", folder=main)
    git("worktree", "add", "--quiet", "-b", "other", str(worktree), folder=main)
    git("commit", "--quiet", "--allow-empty", "-m", "two", folder=worktree)
    for packed in (False, True):
        if packed:
            git("pack-refs", "--all", folder=main)
        for folder in (main, worktree):
            assert record.git_commit(folder) == git("rev-parse", "HEAD", folder=folder).strip()
    git("checkout", "--quiet", "--detach", folder=worktree)
    assert record.git_commit(worktree) == git("rev-parse", "HEAD", folder=worktree).strip()
    assert record.git_commit(tmp_path) is None
