"""Photos on their way to training: the data set to download, the scan of a folder, the prepared cache, split, batches.

Each module is about one of them; `augment` is what training changes about a batch, `squash` prepares one photo.
Callers import from the modules; nothing here is loaded with the package.
"""
