"""The server of `cgan-infer serve`: photos in HTTP requests pass through the stages of a folder run, in memory.

Public: `server.run_server`. `app` has the routes, `connection` the protocol below them, `coloring` the thread that
colours. No file is written, and no path of a client is opened.
"""
