"""Tickets on the Hugging Face hub, through `huggingface_hub` (the extra `hub`).

A repository holds what `cards.write_card_folder` writes. What is downloaded is opened as a portable
file, with all the checks of one; nothing else of a repository is read.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lottery_jax.errors import EnvironmentFault, TicketError, first_line, raise_if_environment
from lottery_jax.tickets.cards import LICENSE, TICKET_FILE, write_card_folder
from lottery_jax.tickets.ticket import Ticket

_NAME = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+?))?(/(?P<file>(?!.*\.\./)[^@]+\.safetensors))?",
    re.ASCII,
)


def fetch(name: str) -> Path:
    """Return the local copy of a ticket's file, downloaded unless the newest one is there.

    Args:
        name: `USER/REPO`, perhaps with `@REVISION`, and perhaps with `/FILE.safetensors`.

    Raises:
        EnvironmentFault: huggingface_hub is not installed.
        TicketError: the name is not one, the hub has no such file, or it can't be reached.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise TicketError(
            f"hf://{name}: is not hf://USER/REPO, perhaps with @REVISION and /FILE.safetensors"
        )
    hub = _huggingface_hub()
    with _explained(f"hf://{name}", "fetched"):
        file = hub.hf_hub_download(
            match["repo"],
            match["file"] or TICKET_FILE,
            revision=match["revision"],
            endpoint=_endpoint(),
        )
    return Path(file)


def push(ticket: Ticket, repo: str, *, private: bool = False, license: str = LICENSE) -> str:
    """Upload a ticket with its card to a repository, which is made unless it is there.

    Args:
        ticket: a trained ticket.
        repo: `USER/REPO`.
        private: whether a repository that is made is private.
        license: an identifier of the hub's list.

    Returns:
        The address of the commit.

    Raises:
        EnvironmentFault: huggingface_hub is not installed.
        TicketError: the name is not one, or the hub refuses it or can't be reached.
    """
    match = _NAME.fullmatch(repo)
    if match is None or match["repo"] != repo:
        raise TicketError(f"{repo}: is not USER/REPO")
    hub = _huggingface_hub()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "card"
        write_card_folder(folder, ticket, name=f"hf://{repo}", license=license)
        with _explained(f"hf://{repo}", "uploaded"):
            api = hub.HfApi(endpoint=_endpoint(), library_name="lottery_jax")
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message="Upload a ticket of lottery_jax"
            )
    return str(done.commit_url)


def _endpoint() -> str | None:
    """Return the server in use; huggingface_hub reads the variable when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _huggingface_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise EnvironmentFault(
            "tickets of the Hugging Face hub need huggingface_hub; pip install 'lottery_jax[hub]'"
        ) from error
    return huggingface_hub


@contextmanager
def _explained(name: str, done: str) -> Iterator[None]:
    """Make one line of whatever huggingface_hub and the libraries below it raise."""
    try:
        yield
    except Exception as error:  # its errors have no common type: HTTP's, its own, ValueError
        raise_if_environment(error)
        where = _endpoint() or "the hub"
        raise TicketError(
            f"{name}: can't be {done} ({where}: {first_line(error, with_type=True)})"
        ) from error
