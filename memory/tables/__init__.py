"""The DuckDB file: its one connection, its migrations, and the SQL of each family of tables.

The only folder that speaks SQL to the memory file, with memory/claims and memory/exchange above it for theirs.
"""
