"""Datasets: tracked talking-head clips in shards, batches of them, and synthetic heads."""
