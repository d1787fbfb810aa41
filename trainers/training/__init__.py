"""The training loop and its parts: losses, negatives, optimizers, memory estimate and resuming. Needs torch.

train.py is the loop. It ends with weights; what they are worth is computed in trainers/ranking.
"""
