"""Carrying a plan out, and telling what came of it.

Each name loads what it needs when it is first used: a confined process that scores a package carries no plan out.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from squeeze.run.result import Failure as Failure
    from squeeze.run.result import Run as Run
    from squeeze.run.result import RunFailed as RunFailed
    from squeeze.run.straight import run as run

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"result": ["Failure", "Run", "RunFailed"], "straight": ["run"]}
)
