"""Anyone's model as a pair of pure functions, one file a framework."""
