"""The networks that see a portrait, in less time than the libraries they come from: regions, matte, identity.

Those of regions and matte need a processor that multiplies bytes (``networks.fast.eight_bit``); results
differ from the libraries' by rounding to 8 bits, see ``tests/tracking/test_fast_masks.py`` for how much.
"""

from rome_lightning.networks.portrait.identity import IdentityNetwork
from rome_lightning.networks.portrait.matte import MatteNetwork
from rome_lightning.networks.portrait.regions import RegionNetwork

__all__ = ["IdentityNetwork", "MatteNetwork", "RegionNetwork"]
