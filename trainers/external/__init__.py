"""The user's own trainers: a command and a space each, registered by name, run and checked. No torch.

trial.py runs one from spec to result; command.py starts the command; files.py and predictions.py check what it leaves.
"""
