"""A model by its id on the Hugging Face hub: downloaded into huggingface_hub's own cache, pinned by its commit.

Only data is fetched: config, tokenizer, safetensors; no code and no pickles.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from squeeze.errors import ModelError, first_line

ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
TIMEOUT_S = 5.0


def is_hub_id(reference: str, root: Path) -> bool:
    """Whether ``org/name`` names a model of the hub: it has that form, and no folder ``org`` is here."""
    return bool(ID.fullmatch(reference)) and not (root / reference).parent.exists()


@cache
def snapshot(reference: str, revision: str | None = None) -> Path:
    """The folder of a model in the cache, downloaded if it is not there; its name is the commit.

    Args:
        revision: A branch, tag or commit; None: the newest.

    Raises:
        ModelError: the hub cannot be reached and the cache does not have it, or there is no such model.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().model_info(reference, revision=revision, timeout=TIMEOUT_S)  # fails fast when the hub is away
        return Path(snapshot_download(reference, revision=revision, allow_patterns=list(FILES)))
    except GatedRepoError:
        raise ModelError(f"{reference}: the hub asks for its licence to be accepted, and for a login, first") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{reference}: no folder here, and the hub has no model of that name") from None
    except Exception as error:  # the client and the HTTP library below it have many kinds for a hub that is silent
        return _cached(reference, revision, error)


def _cached(reference: str, revision: str | None, error: Exception) -> Path:
    """What was downloaded before, where the hub does not answer."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(reference, revision=revision, allow_patterns=list(FILES), local_files_only=True))
    except LocalEntryNotFoundError:
        cure = "a folder, or one try with a network, would do"
        why = f"{type(error).__name__}: {first_line(error)}"[:160]
        raise ModelError(f"{reference}: no folder here, the hub cannot be asked ({why}); {cure}") from None
