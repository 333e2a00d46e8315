"""noria behaves as CPython's own tests of asyncio say, but for what exceptions.toml names with its reasons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import noria
from conformance import reference, suite


@pytest.mark.timeout(suite.MODULE_SECONDS + 60)
@pytest.mark.parametrize("module", suite.MODULES)
def test_behaves_as_cpython_says(module: str, results: list[suite.Result]) -> None:
    if not suite.available(module):
        if suite.available("utils") or not os.environ.get("NORIA_TEST_ALL"):
            pytest.skip(f"this interpreter has no test.test_asyncio.{module}")
        pytest.fail("this interpreter comes without CPython's tests")
    result = suite.run(module)
    results.append(result)
    assert not result.surprises(), "\n\n".join(result.surprises())


@pytest.fixture(scope="module")
def tests_of_reference() -> Path:
    """Where the tests of Python 3.13 are."""
    found = reference.directory()
    if found is None:
        reason = f"needs a Python {reference.NAME} with CPython's tests, on PATH or installed by pyenv"
        if os.environ.get("NORIA_TEST_ALL") == "1":
            pytest.fail(f"{reason}, and NORIA_TEST_ALL=1 allows no skipping", pytrace=False)
        pytest.skip(reason)
    return found


if reference.wanted():  # 3.13 and later run it, or its successor, above

    @pytest.mark.timeout(suite.MODULE_SECONDS + 60)
    @pytest.mark.parametrize("module", reference.SUBJECTS)
    def test_what_is_ours_behaves_as_3_13_says(
        module: str, tests_of_reference: Path, results: list[suite.Result]
    ) -> None:
        standard = reference.standard(module)
        if standard:
            pytest.skip(f"still asyncio's own in noria: {', '.join(standard)}")
        result = suite.run(module, tests_of_reference)
        results.append(result)
        assert not result.surprises(), "\n\n".join(result.surprises())


@pytest.mark.parametrize("of_reference", [False, True] if reference.wanted() else [False])
def test_at_least_95_of_100_functional_cases_pass(of_reference: bool, results: list[suite.Result]) -> None:
    part = [result for result in results if result.reference is of_reference]
    if of_reference:
        due = {module for module in reference.SUBJECTS if not reference.standard(module)}
    else:
        due = {module for module in suite.MODULES if suite.available(module)}
    if not part or {result.module for result in part} < due:
        pytest.skip("says something only when all the modules above ran")
    assert suite.total(part).share >= 95


# What makes the tests above mean something.

LOOK = """
import asyncio, noria
from conformance import substitution
cases = substitution.load("test_futures")
assert issubclass(cases["FutureOnNoriaTests"].cls, noria.Future)
assert not [name for name in cases if name.startswith(("CFuture", "PyFuture"))]
policy = asyncio.DefaultEventLoopPolicy()
for make in (asyncio.new_event_loop, policy.new_event_loop, asyncio.SelectorEventLoop, asyncio.BaseEventLoop):
    loop = make()
    assert isinstance(loop, noria.Loop), make
    loop.close()
async def current():
    return type(asyncio.current_task()), type(asyncio.get_running_loop().create_future())
assert asyncio.run(current()) == (noria.Task, noria.Future)
"""


@pytest.mark.skipif(
    not suite.available("test_futures"), reason="this interpreter comes without CPython's tests"
)
def test_the_cases_meet_noria_and_not_asyncio() -> None:
    roots = (suite.HERE.parent, Path(noria.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(root) for root in roots)}
    subprocess.run([sys.executable, "-c", LOOK], env=env, check=True, timeout=60)


QUEUES = """
import asyncio, noria, sys
from pathlib import Path
noria.LifoQueue, noria.PriorityQueue = asyncio.LifoQueue, asyncio.PriorityQueue  # as if they were not ours yet
Queue = noria.Queue
from conformance import reference, substitution
assert reference.standard("test_queues") == ["LifoQueue", "PriorityQueue"]
tests = Path(sys.argv[1])
reference.open_tests(tests)
cases = substitution.load("test_queues")
assert asyncio.Queue is Queue and asyncio.LifoQueue is noria.LifoQueue is not Queue
assert Path(sys.modules["test.test_asyncio.test_queues"].__file__).parent == tests
assert cases["QueueGetTests"].__module__ == "test.test_asyncio.test_queues"
"""


def test_a_name_that_becomes_ours_is_met_by_the_tests_of_3_13(tests_of_reference: Path) -> None:
    roots = (suite.HERE.parent, Path(noria.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(root) for root in roots)}
    subprocess.run([sys.executable, "-c", QUEUES, str(tests_of_reference)], env=env, check=True, timeout=60)


def test_the_reference_knows_every_module_and_only_names_of_noria() -> None:
    assert {*suite.MODULES} - {*reference.SUBJECTS} == {"test_staggered"}  # of nothing public
    assert {name for names in reference.SUBJECTS.values() for name in names} <= {*vars(noria)["__all__"]}


def test_a_python_that_is_no_3_13_is_not_the_reference() -> None:
    if sys.version_info[:2] == reference.VERSION:
        assert reference.asked(sys.executable) is not None or not suite.available("utils")
    else:
        assert reference.asked(sys.executable) is None
    assert reference.asked("/no/such/python") is None


def result_of(*cases: suite.Case, wrong: list[suite.Entry]) -> suite.Result:
    return suite.Result("module", suite.Exceptions(wrong=wrong), cases=list(cases))


def test_a_failure_that_no_entry_names_is_a_surprise() -> None:
    failed = suite.Case("A.test_x", "Base.test_x", "failed", "why")
    assert "A.test_x" in result_of(failed, wrong=[]).surprises()[0]
    assert not result_of(failed, wrong=[suite.Entry("Base.test_x", "known")]).surprises()


def test_an_entry_that_no_longer_holds_is_a_surprise() -> None:
    known = [suite.Entry("Base.test_x", "known")]
    passed = suite.Case("A.test_x", "Base.test_x", "passed")
    assert "passes" in result_of(passed, wrong=known).surprises()[0]
    assert "does not exist" in result_of(wrong=known).surprises()[0]
    excluded = suite.Result("module", suite.Exceptions(excluded=known), cases=[passed])
    assert "does not exist" in excluded.surprises()[0]
    differs = suite.Result("module", suite.Exceptions(differs=known), cases=[passed])
    assert "passes" in differs.surprises()[0]


def test_what_differs_on_purpose_counts_as_functional_and_not_passed() -> None:
    cases = [suite.Case(f"A.test_{name}", f"A.test_{name}", "passed") for name in "abc"]
    cases += [suite.Case("A.test_d", "A.test_d", "failed"), suite.Case("A.test_e", "A.test_e", "skipped")]
    entry = suite.Entry("A.test_d", "otherwise on purpose")
    private = (suite.Case("A.test_f", "A.test_f", "left out"), suite.Entry("A.test_f", "private"))
    exceptions = suite.Exceptions(excluded=[private[1]], differs=[entry])
    result = suite.Result("module", exceptions, cases=cases, excluded=[private])
    assert not result.surprises()
    assert result.numbers() == suite.Numbers(passed=3, differs=1, excluded=1, skipped=1)
    assert (result.numbers().functional, result.numbers().share) == (4, 75.0)
    assert "otherwise on purpose" in suite.table([result])


def test_a_line_that_needs_a_name_holds_until_the_name_is_ours() -> None:
    table = {
        "A.test_x": {"why": "the interpreter's wait()", "needs": ["Task", "get_event_loop"]},
        "A.test_y": {"why": "the interpreter's Task", "needs": ["Task"]},
    }
    assert [entry.name for entry in suite.entries(table, "3.11")] == ["A.test_x"]


def test_a_case_that_ends_its_process_is_told_and_the_others_run() -> None:
    result = suite.run("conformance.sample")
    assert {case.name: case.outcome for case in result.cases} == {
        "Sample.test_a_dies": "failed",
        "Sample.test_b_fails": "failed",
        "Sample.test_c_passes": "passed",
    }
    died, failed = result.surprises()
    assert "exit status -6" in died
    assert "as it should" in failed
