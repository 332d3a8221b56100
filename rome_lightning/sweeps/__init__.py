"""Trials of many settings, on this machine, on SLURM or by W&B, and their ranking."""
