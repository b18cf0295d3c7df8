"""One file or folder a command."""
