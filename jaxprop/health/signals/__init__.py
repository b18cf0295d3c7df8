"""What a step measures of itself, inside jit."""
