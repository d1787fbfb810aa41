"""Hostile files and hostile clients, drawn from a seed.

files.py leaves a file that a trainer, a user or a failing disk can leave in a home; home.py tries a home that holds it;
trainer.py is a trainer that leaves them. calls.py draws what clients send; clients.py sends it and judges
the answers; serving.py serves a home to them.
`python -m benchmarks.fuzz_home`, `python -m benchmarks.fuzz_clients` and `python -m benchmarks.soak` are the commands.
"""
