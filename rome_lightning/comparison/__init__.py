"""Trained runs against each other, with intervals."""
