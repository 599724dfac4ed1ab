"""What a package's ledger claims of the packed model. The file may be an enemy's: it is read as data and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from squeeze.errors import VerifyError
from squeeze.targets.check import LARGEST_JSON_BYTES
from squeeze.targets.manifest import LEDGER
from squeeze.targets.verify import Package

Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)  # rows hold more than is compared


class ClaimedData(_Part):
    """Which data a score is said to be on."""

    sha256: str


class ClaimedScore(_Part):
    """One score; ``scored_on`` is null on the ledger's own data."""

    value: Number | None
    scored_on: ClaimedData | None = None


class ClaimedRow(_Part):
    """One row."""

    key: str
    scores: dict[str, ClaimedScore]


class ClaimedLedger(_Part):
    """The rows, the original first and the packed model last."""

    scored_on: ClaimedData | None
    rows: Annotated[list[ClaimedRow], Field(min_length=1)]


@dataclass(frozen=True)
class Claim:
    """One score of the packed model.

    Args:
        sha256: Of the data that it is said to be on; None: of no data.
    """

    value: float
    sha256: str | None


def read_ledger(package: Package) -> ClaimedLedger:
    """The ledger inside a package.

    Raises:
        VerifyError: it is absent, too large, not JSON, or not a ledger.
    """
    where, file = f"{package.path}: {LEDGER}", package.folder / LEDGER
    if not file.is_file():
        raise VerifyError(f"{where}: is missing; make the package again")
    if (size := file.stat().st_size) > LARGEST_JSON_BYTES:
        raise VerifyError(f"{where}: {size} bytes; at most {LARGEST_JSON_BYTES} are read")
    try:
        return ClaimedLedger.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(_printable(part) for part in first["loc"]) or "content"
        raise VerifyError(f"{where}: {place}: {first['msg']:.200}; make the package again") from None


def claim(ledger: ClaimedLedger, metric: str) -> Claim | None:
    """What the ledger says of the packed model; None: nothing."""
    score = ledger.rows[-1].scores.get(metric)
    if score is None or score.value is None:
        return None
    on = score.scored_on or ledger.scored_on
    return Claim(score.value, on.sha256 if on else None)


def _printable(part: int | str) -> str:
    """A key of the file, short and without control characters."""
    return repr(part)[1:-1][:40] if isinstance(part, str) else str(part)
