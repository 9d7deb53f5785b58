"""The front door of both roles, and the pool of connections to neurons."""
