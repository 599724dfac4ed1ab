"""What of a model is coupled, how it is cut, and the config that says so: the result opens in its own ecosystem."""
