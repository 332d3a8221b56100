"""Models and clips that the project needs and does not contain: one registry, one resolver."""

from rome_lightning.assets.registry import REGISTRY, Asset
from rome_lightning.assets.resolver import AssetStatus, asset_status, cache_folder, resolve, used_licences

__all__ = ["REGISTRY", "Asset", "AssetStatus", "asset_status", "cache_folder", "resolve", "used_licences"]
