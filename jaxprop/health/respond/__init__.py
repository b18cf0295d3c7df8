"""What is done about an alert."""
