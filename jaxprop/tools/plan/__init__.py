"""Plans a configuration for devices that are not at hand: memory, communication and time of its compiled step."""
