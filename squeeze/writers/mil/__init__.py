"""An ONNX graph as a MIL program, the intermediate language that Core ML's packages hold."""
