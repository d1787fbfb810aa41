"""What verdicts, choices and last sentences are worth where the truth is known.

Each module is a part of one command (`python -m benchmarks.verdicts`) and a section of one page: it simulates studies
or landscapes whose effects are known, lets the server's own functions judge them, and counts how often these were
right. `simulated` has the studies that two parts share, `earlier` the rule of version 0.1 for comparison.
"""
