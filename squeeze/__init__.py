"""Compress a trained model by a plan, and prove every step."""
