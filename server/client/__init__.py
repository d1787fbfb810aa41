"""How a process reaches an owner: the home's owner.json, the stdio bridge, remote endpoints, stop and status.

Of the server it imports only settings, version and errors: the .mcpb bundle is this folder, those files and
trainers/contract/regular_files.py.
"""
