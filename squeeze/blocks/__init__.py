"""One walk block by block: what goes into weights, where the residual stream is, on to the next block."""
