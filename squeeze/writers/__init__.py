"""From the grid to a file, and the proof that the file holds the same weights: one file per format."""
