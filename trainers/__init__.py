"""The child process that computes: data in, trained encoder and validation metrics out. Stays free of torch."""
