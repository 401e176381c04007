"""The shared diffusion core: tensors and time only; knows no audio, no video, no files."""
