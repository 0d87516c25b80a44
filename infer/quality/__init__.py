"""Parity and evaluation of models: their photos, differences, gates, the HTML page, their commands.

Public: `parity.check_parity`, `evaluate.evaluate`, `gates.Gates`. Needs torch, the extra `train`.
"""
