"""The commands, one file each: thin functions over the library that say what they did in words or in JSON."""
