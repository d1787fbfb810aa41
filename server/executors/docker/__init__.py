"""Trials in containers of a Docker engine, each locked down to its run directory and the files that it reads.

Talks to the engine only here. What a container may see and use is written in confinement.py.
"""
