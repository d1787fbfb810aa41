"""Full ranking over the catalogue: final scores, counts mixed into them, and ranks of held-out items. Needs torch.

The metrics that are computed from ranks are defined in trainers/contract/metrics.py.
"""
