"""Stop a scan when its image is predicted to be good enough: features, predictor, rule."""


class RuleError(ValueError):
    """A stopping rule that cannot be made, read, or used with a policy; says why."""
