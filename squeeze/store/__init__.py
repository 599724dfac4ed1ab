"""What is finished, on disk, under the hash of what made it."""

from squeeze.store.journal import Journal
from squeeze.store.seal import Entry
from squeeze.store.store import Store, key_of

__all__ = ["Entry", "Journal", "Store", "key_of"]
