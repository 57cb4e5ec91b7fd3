"""Recordings in the files that devices and clinics write, read as what they say they are."""

from .reading import Recording, Signal, open_file, read_recording


__all__ = ["Recording", "Signal", "open_file", "read_recording"]
