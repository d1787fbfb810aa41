"""Records become answers and sentences: trials, briefs, digests, progress, the end of a study, summaries.

The words that a client reads are chosen here. A view reads records and decides nothing; decisions are in server/study.
"""
