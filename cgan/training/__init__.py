"""A training run: its state, steps, loop, processes, evaluation and files.

Public: `loop.fit`, `run_state.Run`, `checkpoint.load_generator`, `run_folder.RunFolder`. Training data is in
`cgan.data`; networks and losses are in `cgan.networks` and `cgan.losses`.
"""
