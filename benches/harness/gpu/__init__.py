"""`make gpu-check`: what a machine with a GPU gives, and whether everything is right on it, as one JSON object."""
