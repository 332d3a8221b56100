"""Reads weights of other people's networks, and runs them, without running code from a file."""
