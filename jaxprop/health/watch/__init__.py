"""Early warning: alerts from a run's measurements."""
