"""Quantizers of networks that are in memory whole: layer by layer in the order in which they run."""
