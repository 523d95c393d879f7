"""A training's folder and what it tells: what every training has in common, whatever learns."""
