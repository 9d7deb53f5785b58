"""The status role: what a fleet looks like from outside."""
