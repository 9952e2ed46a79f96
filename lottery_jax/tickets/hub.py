"""Tickets on the Hugging Face hub, through `huggingface_hub` (the extra `hub`).

A repository holds what `cards.write_card_folder` writes. What is downloaded is opened as a portable
file, with all the checks of one; nothing else of a repository is read. A file that is larger than the
environment variable LOTTERY_JAX_MAX_DOWNLOAD_MB says is not downloaded, nor opened.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lottery_jax.errors import (
    ConfigError,
    EnvironmentFault,
    TicketError,
    first_line,
    raise_if_environment,
)
from lottery_jax.tickets.cards import LICENSE, TICKET_FILE, write_card_folder
from lottery_jax.tickets.ticket import Ticket

LIMIT = "LOTTERY_JAX_MAX_DOWNLOAD_MB"  # the environment variable that raises or lowers the limit
_LIMIT_MB = 2000  # room for every network of this package
# huggingface_hub makes paths of revisions and files and does not check the revisions. So no part of
# one may begin with a dot. A slash of a revision is written as %2F, as in the hub's own addresses;
# the hub's names of pull requests and conversions may have theirs.
_PART = r"[\w-][\w.-]*"
_NAME = re.compile(
    rf"(?P<repo>{_PART}/{_PART})"
    rf"(@(?P<revision>refs/(pr|convert)/{_PART}|{_PART}(%2F{_PART})*))?"
    rf"(/(?P<file>({_PART}/)*{_PART}\.safetensors))?",
    re.ASCII,
)
# A server's names of a file's content and of a commit, of which huggingface_hub makes paths as well.
_IN_PATH = re.compile(r"[^./\\\0][^/\\\0]*")


def fetch(name: str) -> Path:
    """Return the local copy of a ticket's file, downloaded unless the newest one is there.

    Args:
        name: `USER/REPO`, perhaps with `@REVISION`, and perhaps with `/FILE.safetensors`.

    Raises:
        EnvironmentFault: huggingface_hub is not installed.
        TicketError: the name is malformed, the hub has no such file, it is larger than the limit, or
            the hub can't be reached and there is no copy.
        ConfigError: LOTTERY_JAX_MAX_DOWNLOAD_MB is not a number.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise TicketError(
            f"hf://{name}: is not hf://USER/REPO, perhaps with @REVISION (a slash in it is written as "
            "%2F) and /FILE.safetensors"
        )
    hub, limit, endpoint = _huggingface_hub(), _limit(), _endpoint()
    repo, file = match["repo"], match["file"] or TICKET_FILE
    revision = match["revision"] and match["revision"].replace("%2F", "/")
    with _explained(f"hf://{name}", "fetched"):
        try:
            url = hub.hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
            about = hub.get_hf_file_metadata(url, endpoint=endpoint)
        except Exception:  # as in `_explained`
            copy = hub.try_to_load_from_cache(repo, file, revision=revision)
            if not isinstance(copy, str):
                raise
            return _checked(name, copy, limit)
    if about.size is None or not all(
        part and _IN_PATH.fullmatch(part) for part in (about.etag, about.commit_hash)
    ):
        raise TicketError(
            f"hf://{name}: can't be fetched ({endpoint or 'the hub'} does not answer as a hub does; "
            "HF_ENDPOINT names the server)"
        )
    if about.size > limit * 1e6:
        raise _too_large(name, about.size, limit)
    with _explained(f"hf://{name}", "fetched"):
        copy = hub.hf_hub_download(repo, file, revision=revision, endpoint=endpoint)
    return _checked(name, copy, limit)


def _checked(name: str, copy: str, limit: float) -> Path:
    """Return the path of a local copy. Its download asked the server anew, which may have lied before.

    Raises:
        TicketError: the copy is larger than the limit, or lies out of the cache.
    """
    path = Path(copy)
    if not path.resolve().is_relative_to(Path(_huggingface_hub().constants.HF_HUB_CACHE).resolve()):
        raise TicketError(f"hf://{name}: its copy {path} lies out of the cache; remove it")
    if path.stat().st_size > limit * 1e6:
        raise _too_large(name, path.stat().st_size, limit)
    return path


def _too_large(name: str, size: int, limit: float) -> TicketError:
    return TicketError(
        f"hf://{name}: is {size / 1e6:.0f} MB large, more than the limit of {limit:g} MB; if you "
        f"trust it, set {LIMIT} to a larger number"
    )


def _limit() -> float:
    """Return the largest size of a download in megabytes."""
    text = os.environ.get(LIMIT) or str(_LIMIT_MB)
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{LIMIT}: {text!r} is not a number of megabytes") from error


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
        TicketError: the name is malformed, or the hub refuses it or can't be reached.
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
