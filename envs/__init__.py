"""Gymnasium environments: an action acquires a line of k-space, the reward is what it gained."""
