"""The comparison with other downloaders runs, and says when something did not arrive."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from noria.bench import downloads
from support.tools import require


def test_it_prints_a_row_for_each_client_and_leaves_nothing(tmp_path: Path) -> None:
    require("nginx")
    require("curl")
    command = [sys.executable, "-m", "noria.bench.downloads", "--rounds", "1", "--directory", str(tmp_path)]
    command += ["--files", "20", "--large", "1", "--clients", "noria,curl"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [
        line
        for line in run.stdout.splitlines()
        if line.startswith(("| noria get |", "| noria get, journal |", "| curl"))
    ]
    assert len(rows) == 6, run.stdout
    assert os.listdir(tmp_path) == []


def test_a_client_that_brings_nothing_has_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require("nginx")
    idle = downloads.Client("idle", (), lambda job: ["true"], lambda: "idle 1")
    monkeypatch.setattr(downloads, "CLIENTS", (idle,))
    options = ["--rounds", "1", "--directory", str(tmp_path), "--files", "2", "--large", "0"]
    assert downloads.main(options) == 1
    assert "| idle | 0 of 2 files, 0 others |" in capsys.readouterr().out
    assert os.listdir(tmp_path) == []


def test_a_long_journal_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "noria.bench.journals", "--rows", "3000", "--scan", "500"]
    run = subprocess.run([*command, "--directory", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert "finding 500: " in run.stdout
    assert "noria get retry, 3 files by a proxy: " in run.stdout
    assert os.listdir(tmp_path) == []
