"""Every figure beside its alternatives, in the same run.

`python -m bench` (`make bench`) runs the cases of `bench.cases` one after the other. A case measures one thing and
what it is compared with in rounds, in turn, so that a machine that drifts drifts for both; figures are medians, and
what counts is their ratio. `bench.report` makes the table, `results/*.json` and the plots of docs/performance.md.
"""
