"""``squeeze arm64-root``: the folder in which ``verify --arm64`` runs a package."""

from __future__ import annotations

from pathlib import Path

import click

from squeeze.cli.options import PATH

EPILOG = """\b
Examples:
  squeeze arm64-root                                   a Debian and ONNX Runtime in .squeeze/arm64
  squeeze arm64-root /srv/arm64 --runtime executorch   another runtime, another place
  squeeze verify result/digits-cpu.zip --arm64"""

DEFAULT = Path(".squeeze/arm64")


@click.command("arm64-root", epilog=EPILOG)
@click.argument("folder", type=PATH, default=DEFAULT)
@click.option(
    "--runtime",
    "names",
    multiple=True,
    default=("onnxruntime",),
    show_default=True,
    help="Which runtime's ARM64 wheels it gets, in the version that is installed here; repeatable.",
)
def command(folder: Path, names: tuple[str, ...]) -> None:
    """Make FOLDER, in which 'squeeze verify --arm64' runs packages on an emulated ARM64 processor.

    Extracts a Debian for ARM64 (with mmdebstrap) and adds runtimes as wheels (with pip); what is there already stays.
    Needs no rights beyond writing FOLDER.
    """
    from squeeze import registry
    from squeeze.cli.terminal import progress_for_terminal
    from squeeze.targets.arm64.make import make_root
    from squeeze.targets.arm64.root import Arm64Root

    root = Arm64Root(folder)
    make_root(root, [registry.load("runtimes", name) for name in names], progress_for_terminal())
    click.echo(f"{folder}: ready; squeeze verify PACKAGE --arm64 --arm64-root {folder}")
