from tests.soak import ENVIRONMENTS, Soaked, SoakSettings, soak


def test_memory_is_flat_where_it_rises_at_first_and_then_no_more() -> None:
    steps = range(100, 1300, 100)
    assert Soaked(steps, [300, 380, 400, *[401, 399, 400] * 3], 0).is_flat
    assert not Soaked(steps, [300 + 2 * i for i in range(12)], 0).is_flat


def test_a_short_soak_takes_steps_in_every_environment() -> None:
    found = soak(SoakSettings(steps=16 * len(ENVIRONMENTS), rounds=2))
    assert len(found.mib) == 2 and found.steps[-1] >= 16 * len(ENVIRONMENTS)
    assert found.n_episodes > 0 and min(found.mib) > 50
    assert "resident MiB" in str(found)
