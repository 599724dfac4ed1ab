"""A path that does not exist is a slip on the command line, not a package that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from squeeze.cli import main


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_a_package_that_is_not_there_is_exit_code_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, str(tmp_path / "absent.zip")])
    assert ended.value.code == 2
    assert "absent.zip: no such package; a .zip or an unpacked folder would do" in capsys.readouterr().err
