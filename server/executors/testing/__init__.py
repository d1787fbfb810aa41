"""An executor that trains nothing: a scripted stub for tests.

It keeps the contract of server/executors/base.py, so everything above it works as with real trainings.
"""
