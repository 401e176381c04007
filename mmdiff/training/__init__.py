"""Training on Accelerate: trainer, EMA, checkpoints, logging."""
