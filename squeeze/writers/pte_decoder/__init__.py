"""A language model as a torch program with its key-value cache inside: what ExecuTorch's exporter is given."""
