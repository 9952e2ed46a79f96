"""Sweeps: many runs of one command, each in its own directory, some of them at once.

    python -m lottery_jax.sweep --help

`grid.py` says what runs there are and `plan.py` keeps that; `checks.py` looks for what is wrong
with them; `states.py` derives from the disk what is known of each; `jobs.py` is what runs on a
machine, and the only importer of submitit; `drive.py` starts what can start; `tables.py` and
`report.py` show it.
"""
