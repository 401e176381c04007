"""Video: clips as (B, C, F, H, W) in [-1, 1], their files, networks, data and pipeline."""
