"""What ``squeeze passes``, ``targets``, ``metrics`` and ``data`` share: a list of names, or one name's options."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from squeeze import registry
from squeeze.cli.options import json_option, show_json
from squeeze.cli.wording import default_in_words, type_in_words
from squeeze.errors import UsageError


def listing_command(kind: registry.Kind) -> click.Command:
    """The command that lists one kind."""
    singular = registry.SINGULAR[kind]
    example = next(iter(registry.BUILTIN[kind]))

    @click.command(kind, epilog=f"\b\nExamples:\n  squeeze {kind}\n  squeeze {kind} {example}")
    @click.argument("name", required=False)
    @json_option
    def command(name: str | None, as_json: bool) -> None:
        if name is None:
            list_all(kind, as_json)
        else:
            show_one(kind, name, as_json)

    command.help = f"List every {singular}, built in and plugged in; with NAME, the options of that {singular}."
    return command


def list_all(kind: registry.Kind, as_json: bool) -> None:
    """Names of a kind, each with its first sentence."""
    summaries = {name: _summary(kind, name) for name in registry.entries(kind)}
    if as_json:
        show_json(summaries)
        return
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        click.echo(f"{name:<{width}}  {summary}")


def _summary(kind: registry.Kind, name: str) -> str:
    """A broken plug-in must not hide the others."""
    try:
        return registry.summary(registry.load(kind, name))
    except UsageError as error:
        return f"cannot be loaded: {error}"


def show_one(kind: registry.Kind, name: str, as_json: bool) -> None:
    """What one of a kind is, and its options."""
    cls = registry.load(kind, name)
    if as_json:
        show_json(cls.model_json_schema())
        return
    click.echo(f"{name}: {(cls.__doc__ or '').strip()}\n")
    for line in _facts(cls):
        click.echo(line)
    for option, field in cls.model_fields.items():
        click.echo(f"  {option}: {type_in_words(field)}  {default_in_words(field)}")
        if field.description:
            click.echo(textwrap.indent(textwrap.fill(field.description, 100), "      "))


def _facts(cls: type[Any]) -> list[str]:
    facts = []
    facts += [f"  takes {source.form}, gives {result.form}" for source, result in getattr(cls, "ways", ())]
    facts += [f"  takes {source.form}" for source in getattr(cls, "takes", ())]
    for name in ("needs", "promises", "leaves", "refuses"):
        if values := getattr(cls, name, None):
            facts.append(f"  {name}: {', '.join(sorted(values))}")
    if limits := getattr(cls, "limits", ""):
        facts.append(textwrap.fill(f"Limits: {limits}", 100, initial_indent="  ", subsequent_indent="      "))
    return facts
