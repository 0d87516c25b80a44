"""The commands of cgan-infer, beside those of `infer.quality`: options, and what is checked before more is imported.

Each module has one command, and imports numpy, Pillow and engines only when it runs. `coloring_options` has the options
that `folder` and `color` share. `infer.cli` puts the commands together.
"""
