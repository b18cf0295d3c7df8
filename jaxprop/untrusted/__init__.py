"""What comes from outside and may be anyone's: files, JSON and patterns, each read within bounds."""
