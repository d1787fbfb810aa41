"""Answers trials from recorded tables, in milliseconds and without a child process.

It keeps the contract of server/executors/base.py, so everything above it works as with real trainings. The tables
themselves are read in server/replay.
"""
