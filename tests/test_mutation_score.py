"""The gate behind `make mutants`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutation_score import main


def outcomes(folder: Path, module: str, *codes: int | None) -> None:
    folder.mkdir(exist_ok=True)
    meta = {"exit_code_by_key": {f"{module}.mutant_{n}": code for n, code in enumerate(codes)}}
    (folder / f"{module}.py.meta").write_text(json.dumps(meta), encoding="utf-8")


def test_the_worst_module_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes(tmp_path / "core", "alerts", 1, 1, 1, 36)
    outcomes(tmp_path / "core", "validation", 1, 1, 1, 0)
    outcomes(tmp_path / "core", "untouched")
    assert main(75, tmp_path) == 0
    assert "validation        3 of    4 mutants killed   75.0 %" in capsys.readouterr().out
    assert main(76, tmp_path) == 1


@pytest.mark.parametrize("code", [0, 5, 33, 34, 35, None, 2, -11])
def test_whatever_no_test_noticed_counts_against_it(code: int | None, tmp_path: Path) -> None:
    outcomes(tmp_path / "core", "alerts", 1, code)
    assert main(51, tmp_path) == 1


def test_a_run_that_made_no_mutants_is_no_pass(tmp_path: Path) -> None:
    assert main(0, tmp_path) == 1
