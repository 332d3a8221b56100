"""Comparisons of trained runs, with intervals."""
