"""Stop a scan when its image is predicted to be good enough: features, predictor, rule."""
