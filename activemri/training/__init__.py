"""Training of reconstructors on the masks of episodes."""
