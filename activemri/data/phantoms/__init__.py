"""Procedural subjects with exact k-space: brain, knee and abdomen drawn from closed forms."""
