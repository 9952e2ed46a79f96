"""Tickets: a mask, the weights to start from, and the origin of both; kept and shared.

    python -m lottery_jax.tickets --help

A ticket is kept in a directory (`store.py`, with Orbax) or in one small file (`portable.py`, with
safetensors); `load_ticket` reads both. `plain.py` exports whole arrays; `pytorch.py` imports and exports
weights of PyTorch.
"""

from __future__ import annotations

from lottery_jax.tickets.compare import Comparison, Overlap, compare_tickets
from lottery_jax.tickets.epochs import kept_epochs, load_epoch, save_epoch
from lottery_jax.tickets.metadata import FORMAT_VERSION
from lottery_jax.tickets.plain import export_safetensors
from lottery_jax.tickets.portable import is_portable, save_portable
from lottery_jax.tickets.pytorch import export_pytorch, import_pytorch
from lottery_jax.tickets.store import is_complete, load_ticket, read_metadata, save_ticket
from lottery_jax.tickets.ticket import Ticket, model_of, tree_hash

__all__ = [
    "FORMAT_VERSION",
    "Comparison",
    "Overlap",
    "Ticket",
    "compare_tickets",
    "export_pytorch",
    "export_safetensors",
    "import_pytorch",
    "is_complete",
    "is_portable",
    "kept_epochs",
    "load_epoch",
    "load_ticket",
    "model_of",
    "read_metadata",
    "save_epoch",
    "save_portable",
    "save_ticket",
    "tree_hash",
]
