"""Encoders and their computation: backbones, attention, packed batches, fused kernels, CUDA graphs, checkpoints.

From a batch of sequences to states, and no further: losses are in trainers/training, scores in trainers/ranking.
"""
