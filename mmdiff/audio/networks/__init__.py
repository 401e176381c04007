"""Networks of the audio adapter."""
