"""How parts of a plan file say what is wrong with them: each complaint in the plan's own words, at its place.

Pydantic finds the faults and where they are. Inside a validator a complaint travels as an error of the type ``plan``,
which is worded already; pydantic puts the place of the part before that of the complaint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from squeeze.errors import Fault, did_you_mean
from squeeze.plan.document import Place

WORDED = "plan"


class Complaint(NamedTuple):
    """One thing that is wrong.

    Args:
        place: Within the part that complains.
        inside: The message begins with the part's own place (``data.evaluate: names no source``): the complaint's
            without its last ``inside`` steps. None: it does not.
    """

    message: str
    place: Place = ()
    inside: int | None = None

    def fault(self) -> Fault:
        """The same as a fault of the plan, once the place is whole."""
        if self.inside is None:
            return Fault(self.place, self.message)
        return Fault(self.place, f"{'.'.join(map(str, self.place[: len(self.place) - self.inside]))}: {self.message}")


def refusal(complaints: Iterable[Complaint]) -> ValidationError:
    """The error to raise in a validator."""
    return ValidationError.from_exception_data(WORDED, [_detail(complaint) for complaint in complaints])


def complaints_of(error: ValidationError, *around: str | int) -> list[Complaint]:
    """What a part complained about; its places stand behind ``around``."""
    return [
        Complaint(detail["ctx"]["message"], (*around, *detail["loc"]), detail["ctx"]["inside"])
        for detail in error.errors(include_url=False, include_input=False)
    ]


def _detail(complaint: Complaint) -> InitErrorDetails:
    context = {"message": complaint.message, "inside": complaint.inside}
    return InitErrorDetails(type=PydanticCustomError(WORDED, "{message}", context), loc=complaint.place, input=None)


class Says(NamedTuple):
    """What a field says of a value that it does not take.

    Args:
        wrong: With ``{name}`` of the field and ``{value}``.
        missing: Where there is no value and there must be one; None: the same.
    """

    wrong: str
    missing: str | None = None

    def complaint(self, name: str, value: Any) -> Complaint:
        """About one value."""
        template = self.wrong if value is not None or self.missing is None else self.missing
        return Complaint(template.format(name=name, value=value), (name,))


class Section(BaseModel):
    """A mapping of a plan file: each of its fields is annotated with what it :class:`Says` of a wrong value."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    called: ClassVar[str]

    @model_validator(mode="wrap")
    @classmethod
    def _word_faults(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            raise refusal(dict.fromkeys(cls._complaints(error, values))) from None

    @classmethod
    def _complaints(cls, error: ValidationError, values: Any) -> Iterator[Complaint]:
        """One complaint per wrong field, however many types of a union it is none of."""
        for detail in error.errors(include_url=False, include_input=False):
            place = detail["loc"]
            if detail["type"] == WORDED:
                yield Complaint(detail["ctx"]["message"], place, detail["ctx"]["inside"])
            elif not place:
                yield Complaint(f"{cls.called}: is no mapping of names to values")
            elif detail["type"] == "extra_forbidden":
                yield cls.unknown(str(place[0]))
            else:
                name = str(place[0])
                (says,) = (note for note in cls.model_fields[name].metadata if isinstance(note, Says))
                yield says.complaint(name, values.get(name))

    @classmethod
    def unknown(cls, key: str) -> Complaint:
        """About a key that is no field."""
        return Complaint(f"{cls.called} has no '{key}'{did_you_mean(key, cls.model_fields)}", (key,))
