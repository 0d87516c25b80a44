"""Metrics: distances between sets of pictures (FID, KID), metrics of single pictures, values with their fingerprint.

Public: `distances`, `pictures`, `delta_e`, `features` (the feature networks), `measurement`, `bootstrap`. The metrics
of a training epoch are in `cgan.training.evaluation`.
"""
