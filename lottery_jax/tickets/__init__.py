"""Tickets: a mask, the weights to start from, and where both came from; kept and shared.

    python -m lottery_jax.tickets --help

A ticket is kept in a directory (`store.py`, with Orbax), travels as one small file (`portable.py`,
safetensors) and goes to and from PyTorch (`pytorch.py`). `load_ticket` reads both of the former.
"""

from __future__ import annotations

from lottery_jax.tickets.compare import Comparison, Overlap, compare_tickets
from lottery_jax.tickets.portable import is_portable, save_portable
from lottery_jax.tickets.pytorch import export_pytorch, import_pytorch
from lottery_jax.tickets.store import (
    is_complete,
    load_ticket,
    read_metadata,
    save_ticket,
)
from lottery_jax.tickets.ticket import FORMAT_VERSION, Ticket, model_of, tree_hash

__all__ = [
    "FORMAT_VERSION",
    "Comparison",
    "Overlap",
    "Ticket",
    "compare_tickets",
    "export_pytorch",
    "import_pytorch",
    "is_complete",
    "is_portable",
    "load_ticket",
    "model_of",
    "read_metadata",
    "save_portable",
    "save_ticket",
    "tree_hash",
]
