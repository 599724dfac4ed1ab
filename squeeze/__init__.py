"""Compress a trained model by a plan, and prove every step.

The public names stand in ``__init__.pyi``. Each loads what it needs when it is first used, so that the command line
starts fast.
"""

import os

import lazy_loader

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before anybody imports onnxruntime, which looks up a host
# torch keeps half a megabyte of code for each shape of a product, by default of 1,024: texts have many lengths
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
