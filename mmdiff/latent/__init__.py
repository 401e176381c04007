"""Autoencoders, and diffusion of what they make of data: written once for sound and clips."""
