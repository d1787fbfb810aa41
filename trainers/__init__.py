"""The child process: reads a dataset, trains an encoder and reports validation metrics. This file loads no torch.

It knows nothing of the server: a task comes in as files in a run directory, and its results are files there.
"""
