"""Trials on the nodes of a Ray cluster: the code and the data that travel there, and what happens when a node dies.

The node runs the same child as server/executors/process; its run directory is streamed back to the owner.
"""
