"""Data sets: tracked talking-head clips in shards, the batches made of them, and synthetic heads."""
