"""From a file to predictions: one file per runtime, each imported only when it is asked for."""
