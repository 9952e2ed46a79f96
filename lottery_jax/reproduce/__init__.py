"""The literature as checks that run: claims of papers, the runs that they need, their verdicts.

A claim is a file in `claims/`: a statement, its source, and checks with rules that were fixed before
their first run. `protocols.py` has the configs of the runs, which claims share; `verdict.py` decides.
"""
