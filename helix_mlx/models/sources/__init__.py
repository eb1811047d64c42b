"""Where models come from beside the hub: files and other programs on this machine, and wheels of the package index."""
