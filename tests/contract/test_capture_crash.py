"""Capture dies at any store into the ring's memory; every frame still has one fate, and the ledger says which."""

import pytest

from tests.contract.crash_world import Wire, World

STEPS = 90


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.transport.outbox.Dealer", Wire)
    monkeypatch.setattr("pipeline.transport.frame_receiver.Dealer", Wire)


def live_through(seed: int, cuts: tuple[int, ...] = (), *, watching: bool = False) -> int:
    """One history to its end; returns how many stores it took."""
    world = World(seed, STEPS, cuts)
    if watching:
        world.knife.after = world.watch
    try:
        world.run()
        world.check()
    except BaseException as exc:
        raise AssertionError(f"seed {seed}, cuts {cuts}: {exc!r}") from exc
    finally:
        world.close()
    return world.knife.stores


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 6])
def test_killed_at_every_store_it_leaves_each_frame_one_fate(seed: int) -> None:
    stores = live_through(seed, watching=True)

    for cut in range(1, stores + 1):
        live_through(seed, (cut,))


@pytest.mark.parametrize("seed", [100, 101, 102, 103])
def test_killed_again_while_it_adopts_it_leaves_each_frame_one_fate(seed: int) -> None:
    stores = live_through(seed)

    for cut in range(1, stores + 1, 11):
        for again in range(1, 11):
            live_through(seed, (cut, cut + again, cut + 3 * again))


@pytest.mark.parametrize("seed", [2, 5, 9])
def test_killed_with_hardly_a_place_for_gaps_it_leaves_each_frame_one_fate(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames wait then for a place, and so does the next epoch."""
    monkeypatch.setattr("pipeline.transport.ring_state._gap_places", lambda _: 2)
    stores = live_through(seed, watching=True)

    for cut in range(1, stores + 1, 2):
        live_through(seed, (cut, cut + 7, cut + 14))
