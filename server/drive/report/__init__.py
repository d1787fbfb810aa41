"""What a drive shows while it runs and leaves behind: the live table, report.json, report.md and the picture.

Everything here reads a running or finished drive; nothing here decides what is trained.
"""
