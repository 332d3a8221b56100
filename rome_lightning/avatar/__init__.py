"""The user's API: create, animate, save and load avatars."""

from rome_lightning.avatar.avatar import Avatar

__all__ = ["Avatar"]
