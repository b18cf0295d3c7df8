"""A sweep as one page: its settings beside each other, by their seeds."""
