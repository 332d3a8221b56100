"""Scores, tables, images and reports."""
