"""The files of a source: finds and unpacks them, and detects how each is written. No DuckDB."""
