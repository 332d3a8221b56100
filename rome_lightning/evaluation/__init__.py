"""Scores, tables, pictures and reports."""
