"""What a train step gets out of a device: any configuration, or one of the built-in workloads."""
