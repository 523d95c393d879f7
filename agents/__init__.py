"""Policies: who decides which line to acquire next, from heuristics to bounds."""
