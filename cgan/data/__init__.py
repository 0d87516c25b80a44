"""Training data: download of a data set, scan of a folder, cache of prepared photos, split, batches, augmentation.

Callers import from the modules; the package itself imports nothing.
"""
