"""The StopIteration that ends an await with a value: what a program sees of it, and that it holds on to nothing."""

import asyncio
import gc
import pickle
import weakref
from typing import Any

import pytest

import noria


class Value:
    pass


def ended(value: Any) -> StopIteration:
    """What the iterator of a finished future raises."""
    loop = noria.new_event_loop()
    try:
        future = loop.create_future()
        future.set_result(value)
        with pytest.raises(StopIteration) as caught:
            next(iter(future))
        return caught.value
    finally:
        loop.close()


@pytest.mark.parametrize("value", [1, (1, 2), ValueError("x"), StopIteration(3), (), ""])
def test_it_looks_as_one_made_by_hand(value: Any) -> None:
    ours, plain = ended(value), StopIteration(value)
    assert isinstance(ours, StopIteration)
    assert ours.value is value
    assert str(ended(value)) == str(plain)
    assert repr(ended(value)) == repr(plain)
    assert ours.args == plain.args
    assert ours.args is ours.args
    again = pickle.loads(pickle.dumps(ended(value)))
    assert type(again) is StopIteration
    assert repr(again) == repr(plain)


def test_its_attributes_can_be_set() -> None:
    ours: Any = ended(1)
    ours.args = [4, 5]
    ours.value = 6
    ours.extra = 7
    ours.add_note("a note")
    assert (ours.args, ours.value, ours.extra, ours.__notes__) == ((4, 5), 6, 7, ["a note"])
    with pytest.raises(TypeError, match="deleted"):
        del ours.args
    plain = ended(2)
    assert (plain.args, plain.value, vars(plain)) == ((2,), 2, {})


def test_it_can_be_kept_and_raised_again() -> None:
    kept = [ended(number) for number in range(100)]
    assert [one.value for one in kept] == list(range(100))
    with pytest.raises(StopIteration) as caught:
        raise kept[50]
    assert caught.value.value == 50
    del kept, caught
    assert ended("next").value == "next"


def test_the_value_is_gone_with_the_await() -> None:
    async def main() -> None:
        queue: noria.Queue[Value] = noria.Queue()
        future: asyncio.Future[Value] = noria.get_running_loop().create_future()
        for place in (queue.get, lambda: future):
            value = Value()
            ref = weakref.ref(value)
            if place == queue.get:
                queue.put_nowait(value)
            else:
                future.set_result(value)
            del value
            got = await place()
            assert got is ref()
            del got
            del future
            assert ref() is None
            future = noria.get_running_loop().create_future()
        future.cancel()

    gc.disable()
    try:
        noria.run(main())
    finally:
        gc.enable()


def test_what_runs_when_the_value_goes_may_await_too() -> None:
    class Last:
        def __del__(self) -> None:
            seen.append(ended(Value()).value)
            seen.append(ended(2).value)

    seen: list[Any] = []
    for _ in range(50):
        ended(Last())
    gc.collect()  # pytest.raises makes cycles
    assert len(seen) == 100


def test_a_cycle_through_it_is_collected() -> None:
    value = Value()
    ref = weakref.ref(value)
    value.stop = ended(value)  # type: ignore[attr-defined]
    del value
    gc.collect()
    assert ref() is None
