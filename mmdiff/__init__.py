"""mmdiff: the diffusion toolkit for sound and moving pictures."""
__version__ = "0.1.0"
