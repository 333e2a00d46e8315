"""noria behaves as CPython's own tests of asyncio say, but for what exceptions.toml names with its reasons."""

from __future__ import annotations

import os

import pytest

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
