"""The peer packages that we compare with: their virtual environments, and one training of each.

A peer is run in an environment of its own, as its users would run it. Its numbers are rows like ours.
"""
