"""Order, turns and accounting of the queue."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from saeserve.inference.queue import Entry, FairQueue, Slice


def anything(_: Entry) -> bool:
    return True


def taken(queue: FairQueue[Entry]) -> list[tuple[Entry, int, int]]:
    return [(part.entry, part.start, part.stop) for part in queue.take(anything)]


def filled(batch_rows: int, *entries: Entry) -> FairQueue[Entry]:
    queue: FairQueue[Entry] = FairQueue(batch_rows)
    for entry in entries:
        queue.push(entry)
    return queue


def test_what_waits_together_is_one_batch() -> None:
    a, b = Entry("m", 2), Entry("m", 3)
    queue = filled(8, a, b)
    assert taken(queue) == [(a, 0, 2), (b, 0, 3)]
    assert (taken(queue), queue.rows) == ([], 0)


def test_keys_never_share_a_batch_and_take_turns() -> None:
    a, b, c = Entry("m", 2), Entry("n", 2), Entry("m", 2)
    queue = filled(2, a, b, c)
    assert [taken(queue)[0][0] for _ in range(3)] == [a, b, c]


def test_a_large_request_delays_a_small_one_by_one_batch() -> None:
    large, small = Entry("m", 10), Entry("m", 1)
    queue = filled(4, large, small)
    assert taken(queue) == [(large, 0, 4)]
    assert taken(queue) == [(small, 0, 1), (large, 4, 7)]
    assert taken(queue) == [(large, 7, 8), (large, 8, 10)]


def test_an_ordinary_request_cut_by_the_batchs_edge_keeps_its_place() -> None:
    a, b, c = Entry("m", 3), Entry("m", 3), Entry("m", 3)
    queue = filled(4, a, b, c)
    assert taken(queue) == [(a, 0, 3), (b, 0, 1)]
    assert taken(queue) == [(b, 1, 3), (c, 0, 2)]


def test_the_removed_and_the_unwanted_are_skipped() -> None:
    a, b, c = Entry("m", 3), Entry("m", 4), Entry("m", 5)
    queue = filled(8, a, b, c)
    queue.remove(a)
    queue.remove(a)
    assert queue.rows == 9
    assert queue.take(lambda entry: entry is not b) == [Slice(c, 0, 5)]
    assert queue.rows == 0


def test_an_entry_of_no_rows_is_handed_out_once() -> None:
    empty = Entry("m", 0)
    queue = filled(4, empty)
    assert taken(queue) == [(empty, 0, 0)]
    assert taken(queue) == []


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=20),
    st.integers(1, 8),
    st.data(),
)
def test_every_row_is_handed_out_once_and_in_order(
    work: list[tuple[str, int]], batch_rows: int, data: st.DataObject
) -> None:
    queue: FairQueue[Entry] = FairQueue(batch_rows)
    seen: dict[Entry, int] = {}
    waiting = [Entry(key, rows) for key, rows in work]
    entries = list(waiting)
    while waiting or queue.rows:
        for _ in range(data.draw(st.integers(0, len(waiting)))):
            queue.push(waiting.pop())
        parts = queue.take(anything)
        assert len({part.entry.key for part in parts}) <= 1
        assert sum(part.stop - part.start for part in parts) <= batch_rows
        for part in parts:
            assert part.start == seen.get(part.entry, 0)
            seen[part.entry] = part.stop
        assert queue.rows == sum(entry.waiting for entry in entries if entry not in waiting)
    assert all(entry.taken == entry.rows for entry in entries)
