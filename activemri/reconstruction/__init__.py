"""Reconstruction methods: each turns a measurement into an image."""
