"""Measuring a host: how fast a runtime is at layers of each kind and size, and how fast memory is read."""
