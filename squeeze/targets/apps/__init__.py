"""Beside a phone's model: how an app loads it, in Kotlin and Swift, and how it is measured at the other end of adb.

A template per runtime and language, ``RUNTIME.kt.j2``; of language models ``RUNTIME_text.kt.j2``. What they are filled
with is the manifest's. A runtime without templates has no examples.
"""

from squeeze.targets.apps.files import APP_FILES, app_files

__all__ = ["APP_FILES", "app_files"]
