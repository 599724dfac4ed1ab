"""A language model as a torch program with its key-value cache inside: the input of ExecuTorch's exporter."""
