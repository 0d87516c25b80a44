"""Parity and evaluation of models: photos to measure on, differences, gates, the HTML page, and the two commands.

Public: `parity.check_parity` and `parity.Parity`, `evaluate.evaluate` and `evaluate.Evaluation`, `gates.Gates`. Needs
the extra `train`. Metrics themselves are in `cgan.metrics`.
"""
