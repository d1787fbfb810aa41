"""Drives with a language model: the dialogue, two wire formats, what fits the context, what the model costs.

A provider is one file and one line in the registry of dialogue.py. SDKs are loaded only when their provider is chosen.
"""
