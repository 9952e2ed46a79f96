"""Sweeps: many runs of one command, each in its own directory, some of them at once.

    python -m lottery_jax.sweep --help

`grid.py` makes the runs from a command, `checks.py` checks them and `plan.py` stores them.
`drive.py` starts what can start, as `jobs.py`, the only importer of submitit. `states.py` derives
the status of each run from the disk; `tables.py` and `report.py` show it. `commands.py` has the
commands, `__main__.py` their arguments.
"""
