"""Every door by its name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from benchmarks.fuzzing import data, mlpackage, models, packages, plans, stores
from benchmarks.fuzzing.door import Door

DOORS: dict[str, Callable[[], Door]] = {
    door.name: door
    for door in (
        plans.PlanDoor,
        plans.CommandDoor,
        models.OnnxDoor,
        models.ConfigDoor,
        models.SafetensorsDoor,
        models.TokenizerDoor,
        models.PackedDoor,
        models.GenaiDoor,
        data.NpzDoor,
        data.ImageDoor,
        data.TableDoor,
        packages.PackageDoor,
        packages.StandaloneDoor,
        packages.ReportDoor,
        packages.VerifyDoor,
        packages.BenchDoor,
        stores.StoreDoor,
        *((mlpackage.MlPackageDoor,) if find_spec("coremltools") else ()),  # an extra
    )
}
