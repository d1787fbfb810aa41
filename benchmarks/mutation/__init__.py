"""Small mistakes planted in the code, to measure how many of them the tests notice.

operators.py finds the places and plants a mistake; choice.py picks the tests that may notice it; scratch.py and
runner.py run these in a copy of the checkout. `python -m benchmarks.mutants` is the command.
"""
