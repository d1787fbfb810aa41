"""What verdicts, choices and final sentences are worth, where the truth is known: simulated studies and landscapes."""
