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
    """The id of a run's run at wandb, as far as there is one that can be read."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(r"[\w-]{1,128}", text) else None


class Wandb:
    """Sends rows to Weights & Biases, or nowhere if `mode` is `disabled`.

    Where an argument is the default, wandb's environment variables are honoured: WANDB_MODE,
    WANDB_ENTITY, WANDB_PROJECT, WANDB_NAME, WANDB_DIR, and those for which there is no argument. A
    run that is resumed goes on in its run there, whose id is kept in `folder`.

    wandb is imported only when asked for; whatever it raises becomes one warning and the run goes
    on without it.

    Args:
        mode: `online`, `offline` or `disabled` (the default).
        warn: prints a line.
        entity: whose project; empty: the default.
        project: the project; `lottery_jax` is the default.
        name: of the run; empty: the name of `folder`, the default.
        folder: the run directory.
        config: what the run is of.
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

            # A server that does not answer holds a run up for so long, at its start and its end.
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
        """Sends the row's numbers, under `seed_<seed>/<control>/<key>`."""
        if self._run is None:
            return
        prefix = f"seed_{row['seed']}/{row['control']}"
        numbers = {f"{prefix}/{k}": v for k, v in row.items() if isinstance(v, (int, float))}
        self._attempt(lambda: self._run.log(numbers))

    def finish(self) -> None:
        """Waits until what was sent has arrived."""
        if self._run is not None:
            self._attempt(self._run.finish)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._run = None
            said = one_line(f"{type(error).__name__}: {error}", 200)
            self._warn(f"wandb: {said}; the run goes on without it")
            with contextlib.suppress(Exception):  # what is broken would complain again at exit
                import wandb

                wandb.teardown(exit_code=1)
