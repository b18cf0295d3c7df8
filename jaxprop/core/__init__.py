"""What every later stage stands on."""
