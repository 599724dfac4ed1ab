"""Language models that are never in memory whole: weights in shards on disk, walked one decoder block at a time."""
