"""Training of reconstructors on the masks that episodes really visit."""
