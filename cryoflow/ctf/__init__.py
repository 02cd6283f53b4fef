"""CTF estimation."""

from cryoflow.ctf.estimate import estimate_ctf

__all__ = ["estimate_ctf"]
