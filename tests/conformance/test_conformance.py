"""noria behaves as CPython's own tests of asyncio say, but for what exceptions.toml names with its reasons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import noria
from conformance import suite


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


# What makes the test above mean something.

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


def result_of(*cases: suite.Case, wrong: list[suite.Entry]) -> suite.Result:
    return suite.Result("module", suite.Exceptions([], wrong), list(cases))


def test_a_failure_that_no_entry_names_is_a_surprise() -> None:
    failed = suite.Case("A.test_x", "Base.test_x", "failed", "why")
    assert "A.test_x" in result_of(failed, wrong=[]).surprises()[0]
    assert not result_of(failed, wrong=[suite.Entry("Base.test_x", "known")]).surprises()


def test_an_entry_that_no_longer_holds_is_a_surprise() -> None:
    known = [suite.Entry("Base.test_x", "known")]
    passed = suite.Case("A.test_x", "Base.test_x", "passed")
    assert "passes" in result_of(passed, wrong=known).surprises()[0]
    assert "does not exist" in result_of(wrong=known).surprises()[0]
    excluded = suite.Result("module", suite.Exceptions(known, []), [passed])
    assert "does not exist" in excluded.surprises()[0]


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
