"""Does a foreign graph have an axis that counts examples? Told by the data's shapes beside the graph's.

An array ``[n, ...shape]`` is ``n`` examples of an input ``[...shape]`` that has no such axis, or a feed of an input
``[n, ...shape]`` that has one. A graph alone does not say which it is: the first axis of both may be any number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from squeeze.errors import ModelError

Axes = Sequence[int | str]  # of an input, as the graph has them; a name where the size is free


def answers_one(inputs: Mapping[str, Axes], examples: Mapping[str, tuple[int, ...]], source: str) -> bool:
    """Whether a graph takes one example at a time, as it is, without an axis in front.

    Args:
        inputs: By name, what the graph takes, its first axis included.
        examples: By name, the shape of one example of the data; a single one goes with a single input of any name.

    Raises:
        ModelError: the first axis of such an input is free, so that it may count examples, or some inputs have
            an axis more than others.
    """
    if len(inputs) == len(examples) == 1:
        examples = dict.fromkeys(inputs, next(iter(examples.values())))
    more = {name: len(axes) - len(examples[name]) for name, axes in inputs.items() if name in examples}
    alone, counted = ([name for name, count in more.items() if count == axes] for axes in (0, 1))
    if free := [name for name in alone if inputs[name] and not isinstance(inputs[name][0], int)]:
        axes = inputs[free[0]]
        raise ModelError(
            f"{source}: input '{free[0]}' is {_words(axes)}, an example of the data {_words(examples[free[0]])}: does "
            f"'{axes[0]}' count examples, or is it part of one? A graph with a fixed size there, or data with one "
            "axis fewer, would say it"
        )
    if alone and counted:
        one, other = alone[0], counted[0]
        raise ModelError(
            f"{source}: input '{one}' {_words(inputs[one])} takes one example of the data as it is, '{other}' "
            f"{_words(inputs[other])} has an axis in front of its {_words(examples[other])}; all or none would do"
        )
    return bool(alone)


def _words(axes: Axes) -> str:
    return f"[{', '.join(str(axis) for axis in axes)}]"
