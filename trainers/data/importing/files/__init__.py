"""The files of a source: finds and unpacks them, and detects how each is written.

Here belongs what looks at bytes and lines. What the columns mean is in columns/, and DuckDB reads the whole in readers.py.
"""
