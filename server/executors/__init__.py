"""Where trainings run: the contract and one file for each way to keep it."""
