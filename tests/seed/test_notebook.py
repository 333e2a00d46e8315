"""docs/tour.ipynb, executed by a real Jupyter kernel: the usual one, and one whose own loop is noria's.

The usual kernel runs on the standard library's loop and noria's loops run nested in it. The other is started with
`noria run -m ipykernel_launcher`, as the notebook recommends, and cannot make a loop of the standard library (see
no_stock_loop), so there noria's loops are nested in noria's. Cells are found by the ids they have in the notebook.
"""

import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "docs" / "tour.ipynb"
KERNEL = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
COMMANDS = {
    "usual": [sys.executable, *KERNEL],
    "noria": [sys.executable, "-m", "noria", "run", *KERNEL],
}

Outputs = dict[str, list[str]]  # cell id -> lines


@pytest.fixture(scope="module", params=COMMANDS)
def kernel(request: pytest.FixtureRequest) -> str:
    """The kernel that executes the notebook, a key of COMMANDS."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def outputs(kernel: str, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """The lines that each code cell printed, by the cell's id, once all have run without an error."""
    home = tmp_path_factory.mktemp("jupyter")
    spec = home / "kernels" / kernel
    spec.mkdir(parents=True)
    description = {"argv": COMMANDS[kernel], "display_name": kernel, "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(description))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(home))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        patch.setenv("IPYTHONDIR", str(home / "ipython"))
        for switch in ("PYTHONDEVMODE", "PYTHONASYNCIODEBUG"):  # their reports would be among the outputs
            patch.delenv(switch, raising=False)
        if kernel == "noria":
            patch.setenv("PYTHONPATH", str(HERE / "no_stock_loop"), prepend=os.pathsep)
        notebook = read_notebook()
        NotebookClient(notebook, timeout=60, kernel_name=kernel).execute(cwd=str(home))
    return outputs_of(notebook)


def read_notebook() -> nbformat.NotebookNode:
    """The notebook as it lies in docs/."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    assert isinstance(notebook, nbformat.NotebookNode)
    return notebook


def outputs_of(notebook: nbformat.NotebookNode) -> Outputs:
    """The lines that each code cell printed, by the cell's id."""
    return {cell.id: printed(cell) for cell in notebook.cells if cell.cell_type == "code"}


def printed(cell: nbformat.NotebookNode) -> list[str]:
    """The lines a cell wrote to standard output; any other output, such as a warning, is a failure."""
    assert {output.get("name", output.output_type) for output in cell.outputs} <= {"stdout"}, cell.outputs
    return "".join(output.text for output in cell.outputs).splitlines()


def seconds(lines: list[str]) -> float:
    """The time that a cell took by its own last line, in seconds."""
    found = re.fullmatch(r"([0-9.]+) s", lines[-1])
    assert found, lines
    return float(found[1])


def test_a_coroutine_runs_in_a_notebook(outputs: Outputs) -> None:
    assert outputs["coroutine"] == ["coroutine", "func is done"]


def test_the_blocking_downloads_take_turns(outputs: Outputs) -> None:
    assert len([line for line in outputs["blocking"] if line.startswith("Finished downloading ")]) == 5
    assert seconds(outputs["blocking"]) >= 1.0


def test_the_loop_names_what_blocked_it(outputs: Outputs) -> None:
    culprits = [line for line in outputs["caught"] if "held up the loop" in line]
    assert len(culprits) == 5
    assert all(line.startswith("download_coroutine ") for line in culprits)


def test_downloads_together_take_less_time_than_in_turn(outputs: Outputs) -> None:
    assert outputs["aiohttp"][:-1] == ["None"] * 5
    assert seconds(outputs["aiohttp"]) >= 1.0
    assert seconds(outputs["together"]) < 1.0


def test_run_forever_runs_in_a_notebook(outputs: Outputs) -> None:
    assert outputs["call-soon"] == [
        "starting event loop",
        "Event handler called",
        "Event handler called",
        "stopping the loop",
        "closing event loop",
    ]


def test_run_until_complete_runs_in_a_notebook(outputs: Outputs) -> None:
    assert outputs["task"] == [
        "task creation started",
        "This task is taking 1 seconds to complete",
        "The task's result was: task finished",
    ]


def test_other_tasks_of_a_running_loop_go_on_during_a_nested_run(outputs: Outputs) -> None:
    assert outputs["nested"] == ["the answer, and the other task went on: True"]


def test_the_kernels_own_tasks_go_on_if_it_runs_on_noria(kernel: str, outputs: Outputs) -> None:
    on_noria = kernel == "noria"
    assert outputs["kernel"] == [
        f"the kernel's loop comes from {'noria' if on_noria else 'asyncio'}",
        f"its other task went on during noria.run: {on_noria}",
    ]


def test_what_was_downloaded_is_what_was_served(outputs: Outputs) -> None:
    assert outputs["end"] == ["5 of 5 downloads are identical to the originals"]


def test_the_file_keeps_the_outputs_of_the_usual_kernel(kernel: str, outputs: Outputs) -> None:
    def comparable(lines: list[str]) -> list[str]:
        # Times vary, and so does the order of what a set of tasks printed.
        return sorted(re.sub(r"[0-9.]+ s$", "some s", line) for line in lines)

    kept = outputs_of(read_notebook())
    assert kept.keys() == outputs.keys()
    for cell, lines in kept.items():
        if cell != "kernel" or kernel == "usual":  # the one cell that tells the kernels apart
            assert comparable(outputs[cell]) == comparable(lines), cell
