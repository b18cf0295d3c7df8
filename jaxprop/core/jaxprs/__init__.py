"""One toolbox for traced functions."""
