"""Objectives of encoder pre-training beside `tokens`, a file each; importing them registers them."""

from . import byol, clip, masked, moco_v3, simclr, simsiam, tfc


__all__ = ["byol", "clip", "masked", "moco_v3", "simclr", "simsiam", "tfc"]
