"""What the owner and its child processes agree on: fields, specs, presets, metrics, fingerprint and run directory.

wire.py defines the values that pass through the run directory and names every file in it. Nothing here loads torch.
"""
