"""Quantizers of other packages that fill the one grid, each run in a process of its own."""
