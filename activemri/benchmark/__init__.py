"""Compare policies and reconstructors: one long table, statistics by subject, a report."""
