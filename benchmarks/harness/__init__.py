"""Code that all benchmarks share: resumable rows, datasets, machine facts, Markdown tables, measuring processes.

Nothing here measures one particular thing; that belongs to the commands beside this folder.
"""
