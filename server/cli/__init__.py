"""The commands of `virtualmle`: one file for each family, loaded only when its command is used.

A command parses arguments, asks the owner or reads a file, and prints. Every decision is the owner's.
"""
