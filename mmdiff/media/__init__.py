"""What the adapters of all media share: finding files, keeping what is decoded, opening containers, measures."""
