"""The ``squeeze`` command: which subcommands there are, and how an error becomes one line and an exit code."""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import sys
import warnings
from typing import Any

import click

from squeeze.cli.stopping import clean_end, stop_line
from squeeze.errors import BudgetBroken, PlanError, SqueezeError, Terminated, did_you_mean, one_line
from squeeze.refused import refusal

COMMANDS = {
    "run": "Carry a plan out: compress, score every pass, pack, verify, report.",
    "check": "Check a plan without loading weights; --explain says what each pass will do.",
    "inspect": "Show a model's graph: layers, sizes, work, and what is coupled for pruning.",
    "verify": "Check a package: sums, golden output, and its score if data is given.",
    "bench": "Measure a package on this host, or the host itself (--profile).",
    "status": "Say how far a run is, while it runs and after.",
    "compare": "Hold two finished runs against each other, paired where the examples are the same.",
    "compare-tensors": "Name the first layer where a package leaves the original.",
    "report": "Show the report of a run again, or render it anew.",
    "init": "Write a commented starter plan.",
    "passes": "List the passes and their options.",
    "targets": "List the targets and their options.",
    "metrics": "List the metrics and their options.",
    "data": "List the sources of data and their options.",
    "devices": "List the device profiles that a target may name.",
    "arm64-root": "Make the folder that verify --arm64 runs packages in.",
    "schema": "Print the JSON schema of plan files, for editors.",
    "store": "List or prune what finished passes have left on disk.",
}
INTERRUPTED = 130
TERMINATED = 143  # what the shell reports of a process that SIGTERM ended
PIPE_CLOSED = 141  # what the shell reports of any tool whose reader went away

EPILOG = """\b
Examples:
  squeeze init plan.yaml                    a commented plan to start from
  squeeze check plan.yaml --explain         what it would do
  squeeze run plan.yaml --out result        do it; kill it and run it again: it goes on
  squeeze verify result/plan-cpu.zip        is this package what it claims to be?

Exit codes: 0 done, 1 a run failed, 2 the plan or the command line is wrong,
3 the budget is broken, 4 a package did not verify."""


class LazyGroup(click.Group):
    """Commands by name, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"squeeze.cli.{name.replace('-', '_')}_command").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command '{args[0]}'{did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would exit with 1, as if the command had failed
            return ctx.exit(_leave_pipe())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="squeeze", prog_name="squeeze")
def group() -> None:
    """Compress a trained model by a plan, and prove every step.

    A plan chains passes (pruning, distillation, quantization, export) over a model. After every pass the model is
    scored again; the ledger says what changed, by how much, and how sure that is.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a ``SqueezeError`` is one line per fault on standard error and its own exit code."""
    _quieten()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with clean_end():
            code = group.main(arguments, prog_name="squeeze", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        code = _complain([], error.format_message().splitlines(), 2)
    except click.ClickException as error:
        code = _complain(arguments, [f"squeeze: {error.format_message()}"], 2)
    except SqueezeError as error:
        code = _complain(arguments, str(error).splitlines(), error.exit_code, error)
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # click treats EOFError as Ctrl-D; nothing prompts here
            raise error.__cause__ from None
        code = _complain(arguments, [stop_line("interrupted", arguments, error)], INTERRUPTED, error)
    except Terminated as error:
        code = _complain(arguments, [stop_line("terminated", arguments, error)], TERMINATED, error)
    except BrokenPipeError:
        code = _leave_pipe()
    except Exception as error:
        if (refused := refusal(error)) is None:
            raise
        code = _complain(arguments, [f"squeeze: {refused}"], 1, error)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(arguments: list[str], lines: list[str], code: int, error: BaseException | None = None) -> int:
    """Say what went wrong; with ``--json`` as JSON, unless the JSON of a finished run is out already."""
    lines = [one_line(line) for line in lines]  # click repeats arguments as they are
    if "--json" in arguments and not isinstance(error, BudgetBroken):
        print(json.dumps({"error": _kind(error), "lines": lines, "faults": _faults(error)}))
    else:
        print("\n".join(lines), file=sys.stderr)
    return code


def _kind(error: BaseException | None) -> str:
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "Interrupted"
    return type(error).__name__ if error else "UsageError"


def _leave_pipe() -> int:
    """The reader of standard output is gone: print nothing, and flush nothing at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _faults(error: BaseException | None) -> list[dict[str, Any]]:
    if not isinstance(error, PlanError):
        return []
    return [{"line": fault.line, "place": list(fault.path), "message": fault.message} for fault in error.faults]


def _quieten() -> None:
    """Libraries that chat on import would break ``--json`` and clean logs."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for chatty in ("torchao", "torch.utils._pytree"):  # transformers imports torchao where executorch brought it
        logging.getLogger(chatty).setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the character shows a replacement
    warnings.formatwarning = lambda message, *_, **__: (
        f"note: {one_line(str(message))}\n"
    )  # without our own source line
