"""Where a NaN began."""
