"""Quantizers of language models: one decoder block in memory at a time, each finished block on disk."""
