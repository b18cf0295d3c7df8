"""Readers of data, one file a format."""
