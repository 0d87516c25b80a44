"""Distances between sets of pictures (FID, KID), measures of single pictures, and what figures carry with them.

Public: `distances`, `pictures`, `delta_e`, `features` (the networks), `measured` (a value with its fingerprint),
`bootstrap`. What a training run measures after an epoch is in `cgan.training.loop.evaluation`.
"""
