"""Packages on an emulated ARM64 processor, the kind that phones and small boards have."""
