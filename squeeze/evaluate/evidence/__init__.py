"""What scores are made of: one collector per kind of evidence, shared by ``run`` and ``verify``."""
