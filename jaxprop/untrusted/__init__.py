"""What comes from outside and may be anyone's: files, JSON and patterns, read and written within bounds."""
