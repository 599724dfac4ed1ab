"""Language models as the runtimes run them: one file per runtime, each imported only when it is asked for."""
