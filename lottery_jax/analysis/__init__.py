"""Analyses of finished runs: why a ticket wins or fails.

    python -m lottery_jax.analyse --help

`distance` and `interpolation` are pure functions on trees of weights. `line` measures networks on
the line between two, with statistics of `batch_statistics`. `stability`, `levels`, `rewind` and
`masks` are the analyses; each returns rows. `opening` loads networks of runs, `pixels` says which
pixels a mask reads. docs/analysis.md has the definitions.
"""
