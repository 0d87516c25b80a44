"""Photos on their way to training: the data set to download, the scan of a folder, the prepared cache, split, batches.

Each module is about one of them. What training does to a batch (cgan.augment) and how a run stores it lie elsewhere.
Callers import from the modules; nothing here is loaded with the package.
"""
