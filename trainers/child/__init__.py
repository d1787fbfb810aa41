"""What a child process does in a prepared directory: train a trial, read the sealed test, export, recommend.

The entry points are `python -m trainers` and the warm worker; both call tasks.py.
"""
