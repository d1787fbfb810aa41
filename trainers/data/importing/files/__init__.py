"""The files of a source: finds and unpacks them, and detects how each is written.

Here belongs what looks at bytes and lines. What the columns mean is in columns/, and readers.py
lets DuckDB read the whole.
"""
