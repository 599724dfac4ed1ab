"""A decoder as one ONNX graph: traced through transformers' own code, its weights streamed from the shards."""
