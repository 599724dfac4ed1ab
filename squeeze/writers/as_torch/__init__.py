"""An ONNX graph as a torch module, for runtimes whose exporters read torch: ExecuTorch, LiteRT."""
