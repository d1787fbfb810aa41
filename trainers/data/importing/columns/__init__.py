"""What the columns of a table are, by their names and by what a sample of their cells holds. No DuckDB."""
