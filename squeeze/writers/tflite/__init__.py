"""An ONNX graph as a ``.tflite`` file, written by the format's own schema: no converter stands in between."""
