"""Avatars as their users meet them: create, animate, save, load."""

from rome_lightning.avatar.avatar import Avatar

__all__ = ["Avatar"]
