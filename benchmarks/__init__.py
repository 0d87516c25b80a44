"""Benchmarks and stress checks: `python -m benchmarks NAME`, from the folder of the repository.

Each command is a module with a click command `main`; the modules beside them hold what several commands share.
Their records lie in benchmarks/results. Nothing here is installed, and no other package imports it.
"""
