"""The user's own code, as a configuration names it: loaded, checked against its signature, and called."""
