"""Parts of the ``run.py`` of packages: plain modules without Squeeze, put together by ``squeeze.targets.script``.

Each imports the standard library and its siblings here at its top, anything else inside functions.
"""
