"""Policies that learn: one algorithm a file, one registry, one run."""
