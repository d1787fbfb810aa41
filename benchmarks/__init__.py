"""Every number that the README and docs claim, with the command that gives it again."""
