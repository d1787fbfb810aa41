"""What leaves or enters a home: an exported model with its card, packs of heuristics, backups.

The formats of those files belong here; the commands that use them are in server/cli.
"""
