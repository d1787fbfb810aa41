"""What stays: studies, trials and what was learned, in one DuckDB file that one owner process holds."""
