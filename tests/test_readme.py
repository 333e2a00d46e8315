"""What the README shows is true: its Python programs run as they stand, and its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/benchmarks.md",
    "docs/dependencies.md",
    "docs/design.md",
    "docs/drivers.md",
    "docs/files.md",
    "docs/get.md",
    "examples/README.md",
    "tests/ecosystem/README.md",
]


@pytest.mark.parametrize("program", PROGRAMS, ids=[f"program-{n}" for n in range(1, len(PROGRAMS) + 1)])
def test_a_program_of_the_readme_runs(program: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    expected = re.findall(r"#: (.*)$", program, re.MULTILINE)
    assert done.stdout.splitlines() == expected


def test_the_readme_begins_with_the_two_commands_that_set_everything_up() -> None:
    first = README.split("```sh\n")[1].split("```")[0]
    commands = [line.split("#")[0].strip() for line in first.splitlines()]
    assert commands == ["pip install '.[get]' && noria demo", "pip install '.[test]' && pytest"]


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_to_files_that_are_there(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing
