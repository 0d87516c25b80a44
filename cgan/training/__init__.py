"""A training run: its state, steps, loop, processes, evaluation, and the files of its folder.

Public: `loop.fit`, `state.Run`, `checkpoint.load_generator`, `run_folder.RunFolder`. Photos on their way to it are in
`cgan.data`, networks and losses one floor above.
"""
