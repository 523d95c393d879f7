"""Reconstruction methods, one a file: each turns a measurement into an image."""
