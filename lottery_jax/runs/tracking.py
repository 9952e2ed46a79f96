"""Weights & Biases, when it is asked for; the only importer of wandb."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lottery_jax.errors import one_line
from lottery_jax.system.files import write_text

PROJECT = "lottery_jax"  # the default
_ID = "wandb_id"


def _read_id(file: Path) -> str | None:
    """Return the id that wandb gave a run, if there is one that can be read."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(r"[\w-]{1,128}", text) else None


class Wandb:
    """Sends rows to Weights & Biases, or nowhere if `mode` is `disabled`.

    Where an argument has its default, wandb's environment variables are honoured: WANDB_MODE,
    WANDB_ENTITY, WANDB_PROJECT, WANDB_NAME, WANDB_DIR, and those that have no argument here. A
    resumed run continues its run at wandb, whose id is kept in `folder`.

    wandb is imported only when it is asked for. Whatever it raises becomes one warning, and the run
    continues without it.

    Args:
        mode: `online`, `offline` or `disabled` (the default).
        warn: prints a line.
        entity: the owner of the project; empty: wandb's default.
        project: the project; default: `lottery_jax`.
        name: the name of the run; empty: that of `folder`.
        folder: the run directory.
        config: the config's keys and values.
    """

    def __init__(
        self,
        mode: Any,
        warn: Callable[[str], None],
        *,
        entity: str,
        project: str,
        name: str,
        folder: Path,
        config: Mapping[str, Any],
    ) -> None:
        self._run: Any = None
        self._warn = warn
        env = {key: value for key, value in os.environ.items() if value}
        if mode == "disabled":
            mode = env.get("WANDB_MODE", mode)
        if mode == "disabled":
            return
        known_id = _read_id(folder / _ID)

        def start() -> None:
            import wandb

            # Seconds that a server that does not answer can delay the start and the end of a run.
            patience = {"init_timeout": 30, "finish_timeout": 60}
            known = wandb.Settings.model_fields
            self._run = wandb.init(
                mode=mode,
                id=env.get("WANDB_RUN_ID") or known_id,
                resume=None if mode == "offline" or "WANDB_RESUME" in env else "allow",
                settings=wandb.Settings(**{k: v for k, v in patience.items() if k in known}),
                entity=entity or None,
                project=None if project == PROJECT and "WANDB_PROJECT" in env else project,
                name=name or (None if "WANDB_NAME" in env else folder.name),
                dir=None if "WANDB_DIR" in env else str(folder),
                config=dict(config),
            )
            if self._run.id != known_id:
                write_text(folder / _ID, f"{self._run.id}\n")

        self._attempt(start)

    def log(self, row: Mapping[str, Any]) -> None:
        """Send a row's numbers, named `seed_<seed>/<control>/<key>`."""
        if self._run is None:
            return
        prefix = f"seed_{row['seed']}/{row['control']}"
        numbers = {f"{prefix}/{k}": v for k, v in row.items() if isinstance(v, (int, float))}
        self._attempt(lambda: self._run.log(numbers))

    def finish(self) -> None:
        """Wait until everything has been sent."""
        if self._run is not None:
            self._attempt(self._run.finish)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._run = None
            said = one_line(f"{type(error).__name__}: {error}", 200)
            self._warn(f"wandb: {said}; the run goes on without it")
            with contextlib.suppress(Exception):  # wandb would complain again at exit
                import wandb

                wandb.teardown(exit_code=1)
