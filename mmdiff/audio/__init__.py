"""The audio adapter: media in, spectrograms, vocoders, media out."""
