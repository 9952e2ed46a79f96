"""Model cards: what the Hugging Face hub shows of a ticket, and a folder that is ready for upload.

The front matter is that of https://huggingface.co/docs/hub/model-cards. A card says what was
measured, where the ticket came from and how it is loaded, and nothing that its metadata lacks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lottery_jax.curve import ACCURACY, metric_of
from lottery_jax.errors import TicketError, one_line
from lottery_jax.methods import method_label
from lottery_jax.system.files import local_path, write_text
from lottery_jax.tickets import zoo
from lottery_jax.tickets.metadata import Metadata
from lottery_jax.tickets.portable import save_portable
from lottery_jax.tickets.ticket import Ticket, complete

TICKET_FILE, CARD_FILE, CONFIG_FILE = FILES = ("ticket.safetensors", "README.md", "config.json")
LICENSE = "apache-2.0"  # that of this project, under which its zoo is published
_TAGS = ("lottery-ticket", "pruning", "sparsity", "jax", "flax")
# The names by which the hub knows data sets.
_HUB_DATA = {
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn",
    "imagenet2012": "ILSVRC/imagenet-1k",
}


def write_card_folder(
    path: str | os.PathLike[str], ticket: Ticket, *, name: str = "", license: str = LICENSE
) -> Path:
    """Write a folder ready for upload: README.md, ticket.safetensors and config.json.

    Each file appears whole or not at all and replaces one of its name; all else in the folder stays.

    Args:
        path: the folder, which may be there.
        ticket: a trained ticket.
        name: how the card tells readers to load it, such as `hf://user/repo`; default: by the name of
            its file.
        license: an identifier of the hub's list, such as `mit`.

    Returns:
        The folder.

    Raises:
        TicketError: as `save_ticket`, or its metadata can't be shown; nothing is written then.
        OSError: the folder can't be written.
    """
    folder = local_path(path)
    ticket = complete(folder, ticket)
    card = ticket_card(ticket.metadata, name or TICKET_FILE, license=license)
    about = {**ticket.metadata, "library_name": "lottery_jax", "ticket": TICKET_FILE}
    config = json.dumps(about, indent=1, allow_nan=False)
    save_portable(folder / TICKET_FILE, ticket)
    write_text(folder / CONFIG_FILE, f"{config}\n")
    write_text(folder / CARD_FILE, card)
    return folder


def ticket_card(metadata: Metadata, name: str, *, license: str = LICENSE) -> str:
    """Return the model card of one ticket as Markdown with front matter.

    Args:
        metadata: complete, as `save_ticket` returns it.
        name: the path or address that `load_ticket` takes.
        license: an identifier of the hub's list.

    Raises:
        TicketError: a value is not what `save_ticket` writes.
    """
    try:
        return _ticket_card(metadata, name, license)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TicketError(f"{name}: its metadata can't be shown: {error!r}") from error


def _ticket_card(metadata: Metadata, name: str, license: str) -> str:
    result = metadata.get("result") or {}
    metric = metric_of(result)
    value = result.get(f"test_{metric}")
    model, data = str(metadata["model"].get("name", "a network")), str(metadata["data"])
    density, is_dense = float(metadata["density"]), metadata["density"] == 1
    what = "dense network" if is_dense else f"ticket of {density:.2%} of the weights"
    title = f"{model} on {data}: a {what}"
    found = metadata.get("found_by") or {}
    facts = {
        "network": f"{model}, input {'x'.join(map(str, metadata['input_shape']))}, "
                   f"{metadata['num_classes']} outputs",
        "trained on": data,
        "mask found on": found.get("data", "unknown"),
        "mask drawn by": _method(metadata),
        "kind": metadata.get("control", "unknown"),
        "weights kept": f"{metadata['weights_remaining']} of {metadata['weights_total']}",
        f"test {metric}": "unknown" if value is None else f"{float(value):.6g}",
        "epochs": result.get("epochs", "unknown"),
        "seed": metadata.get("seed", "unknown"),
        "level": metadata.get("level", "unknown"),
        "rewind step": metadata.get("rewind_step", "unknown"),
        "config fingerprint": metadata.get("config_fingerprint", "unknown"),
    }  # fmt: skip
    front = front_matter(
        data=data,
        metric=metric,
        license=license,
        results={title: None if value is None else float(value)},
    )
    table = "\n".join(f"| {key} | {_cell(fact)} |" for key, fact in facts.items())
    return (
        f"{front}\n# {_cell(title)}\n\n{_WHAT_A_TICKET_IS}\n\n"
        f"| | |\n|---|---|\n{table}\n\n{_usage(name)}"
    )


def series_card(name: str, entries: Mapping[str, zoo.Entry]) -> str:
    """Return the model card of some tickets of the zoo that differ in seed and level alone.

    Args:
        name: the folder of the zoo, such as `lenet_digits/imp`.
        entries: the tickets by their names; at least one.
    """
    first = next(iter(entries.values()))
    sparse = next((key for key, entry in entries.items() if entry.density < 1), name)
    levels: dict[int, list[zoo.Entry]] = {}
    for entry in entries.values():
        levels.setdefault(entry.level, []).append(entry)
    rows, results = [], {}
    for level, of_level in sorted(levels.items()):
        accuracies = [entry.accuracy for entry in of_level]
        spread = f" ± {stdev(accuracies):.2%}" if len(accuracies) > 1 else ""
        density, mean = of_level[0].density, fmean(accuracies)
        rows.append(f"| {level:02d} | {density:.2%} | {mean:.2%}{spread} | {len(accuracies)} |")
        results[f"{name}, {density:.2%} of the weights"] = mean
    front = front_matter(data=first.data, metric=ACCURACY, license=LICENSE, results=results)
    configs = " and ".join(sorted({f"`{entry.config}`" for entry in entries.values()}))
    control = "" if first.control == "winning" else f" These are controls: `{first.control}`."
    return (
        f"{front}\n# {name}\n\n{_WHAT_A_TICKET_IS}\n\n"
        f"Network {first.network}, data {first.data}, method {first.method}, found by {configs}."
        f"{control} Test accuracy is the mean over seeds with one standard deviation.\n\n"
        "| level | weights kept | test accuracy | seeds |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n{_usage(f'zoo://{sparse}')}"
    )


def front_matter(
    *, data: str, metric: str, license: str, results: Mapping[str, float | None]
) -> str:
    """Return the YAML block at the top of a model card.

    Args:
        data: the name of the data set.
        metric: the measure of the results.
        license: an identifier of the hub's list.
        results: what was measured on the test set, by the name of the model; None: nothing was.
    """
    task = {"type": "image-classification" if metric == ACCURACY else "other"}
    tags = [*_TAGS, *([task["type"]] if metric == ACCURACY else [])]
    dataset = {"name": data, "type": _HUB_DATA.get(data, data), "split": "test"}
    models = [
        {
            "name": name,
            "results": [
                {"task": task, "dataset": dataset, "metrics": [{"type": metric, "value": value}]}
            ],
        }
        for name, value in results.items()
        if value is not None
    ]
    values: dict[str, Any] = {
        "library_name": "lottery_jax",
        "license": license,
        "datasets": [_HUB_DATA.get(data, data)],
        "metrics": [metric],
        "tags": tags,
        **({"model-index": models} if models else {}),
    }
    # JSON is YAML, so that no name that somebody gave can break out of its place.
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


_WHAT_A_TICKET_IS = (
    "A lottery ticket is a mask, the weights to start from, and here the trained weights, too. The "
    "file keeps the weights that the mask keeps; loading it executes nothing."
)


def _usage(name: str) -> str:
    return (
        "```python\nimport lottery_jax as lj\n\n"
        f"ticket = lj.load_ticket({json.dumps(name)})\n"
        "ticket.mask, ticket.params, ticket.trained  # trees of NumPy arrays\n```\n"
    )


def _method(metadata: Metadata) -> str:
    method = metadata.get("method")
    if not method:
        return "unknown"
    draw, scores = (str(method.get(key, "unknown")) for key in ("draw", "scores"))
    return method_label(draw, scores, str(method.get("retrain", "")))


def _cell(value: object) -> str:
    """Return a value as text that neither ends a cell of a table nor becomes markup."""
    return one_line(value).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
