"""A language model as one .gguf file, which llama.cpp runs: architecture, tensors, tokenizer."""
