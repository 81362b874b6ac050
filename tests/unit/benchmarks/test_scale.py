"""The simulation of scale: laws of the stream it plays, and costs found again from known ones."""

import importlib
from dataclasses import replace

import pytest


@pytest.fixture
def model():
    return importlib.import_module("scale_model")


@pytest.fixture
def scale():
    return importlib.import_module("scale")


@pytest.fixture
def free(model):
    """Everything but the models costs nothing, and the loop turns a thousand times a second."""
    names = model.Costs.__dataclass_fields__
    return model.Costs(**{**dict.fromkeys(names, 0.0), "pause_s": 0.001})


def test_without_costs_one_of_each_runs_at_its_own_speed(model, free):
    found = model.simulate(model.Case(1, 1, 1.0), free, rounds=50, fill=5)
    assert found.share == pytest.approx(1.0, abs=0.001)


def test_the_slower_side_sets_the_rate(model, free):
    slow_student = model.Case(4, 2, 1.0, round_s=2.0, router="best")
    found = model.simulate(slow_student, free, rounds=40, fill=10)
    assert found.blocks_s == pytest.approx(2 / 2.0, rel=0.01)
    slow_teacher = model.Case(4, 2, 1.0, round_s=0.1, router="best")
    found = model.simulate(slow_teacher, free, rounds=40, fill=10)
    assert found.blocks_s == pytest.approx(4 / 1.0, rel=0.02)


def test_blocks_are_dealt_in_order_each_once_whatever_jitter_and_deaths(model, free):
    case = model.Case(
        6, 3, 1.0, cv=0.5, student_cv=0.5, num_loaders=2, lifetime_s=20.0, restart_s=5.0
    )
    seen = model.Stream(case, free, num_rounds=60).run()
    assert seen.order == list(range(180))
    assert len(seen.scored) == 180
    assert seen.lost > 0


def test_deaths_cost_what_is_lost(model, free):
    case = model.Case(8, 2, 1.0, router="best")
    # Each is away for a fifth of the time.
    dying = replace(case, lifetime_s=40.0, restart_s=10.0)
    whole = model.simulate(case, free, rounds=200, fill=20)
    less = model.simulate(dying, free, rounds=200, fill=20)
    assert whole.share > 0.98
    assert 0.6 < less.share < 0.85


def test_a_coordinator_passes_no_more_than_its_seconds_allow(model, free):
    costs = replace(free, pause_s=0.1, block_s=0.05)
    case = model.Case(40, 4, 0.1, num_loaders=40)
    found = model.simulate(case, costs, rounds=60, fill=20)
    assert 0.8 / 0.05 < found.blocks_s <= 1 / 0.05
    assert found.coordinator_share > 0.9


def test_ranks_that_wait_slow_the_coordinator(model, free):
    costs = replace(free, block_s=0.02)
    case = model.Case(40, 40, 0.1, num_loaders=40, router="best")
    alone = model.simulate(case, costs, rounds=10, fill=5)
    # Forty ranks that each look a hundred times a second for 0.1 ms take two fifths of a core.
    looking = model.simulate(case, replace(costs, poll_s=1e-4), rounds=10, fill=5)
    assert looking.blocks_s / alone.blocks_s == pytest.approx(0.6, abs=0.08)


def test_a_loader_is_one_thread(model, free):
    case = model.Case(20, 2, 0.1, router="best")
    one = model.simulate(case, replace(free, loader_s=0.02), rounds=100, fill=20)
    assert one.blocks_s == pytest.approx(50.0, rel=0.03)
    assert one.loader_share > 0.95
    four = replace(case, num_loaders=4)
    assert model.simulate(four, replace(free, loader_s=0.02), rounds=100, fill=20).blocks_s > 140


def test_bytes_hold_the_teacher_back(model, free):
    case = model.Case(8, 2, 0.1, round_s=2.0, block_bytes=1e6, store_bytes=80e6)
    # A quarter of the store is 20 blocks; a block for each request and two a rank are 22.
    assert case.cap_blocks == 22
    found = model.simulate(case, free, rounds=30, fill=5)
    assert found.most_between == 22


def test_a_store_too_small_for_a_round_does_not_hang(model, free):
    case = model.Case(2, 8, 0.01, block_bytes=1e6, store_bytes=8e6)
    assert case.cap_blocks == 4
    assert model.simulate(case, free, rounds=5, fill=2).blocks_s > 0


def test_routers_that_know_all_queues_are_no_worse(model, free):
    case = model.Case(32, 4, 1.0, num_loaders=8)
    two = model.simulate(case, free, rounds=120, fill=60)
    best = model.simulate(replace(case, router="best"), free, rounds=120, fill=60)
    assert best.share > 0.98
    assert two.share < best.share - 0.03


def test_cores_shared_by_all_are_a_bound(model, free):
    costs = replace(free, loader_s=0.03, shard_s=0.03)
    case = model.Case(8, 1, 0.1, num_loaders=8, cores=1, others=0.4)
    found = model.simulate(case, costs, rounds=100, fill=20)
    # 60 ms of work a block, and 0.6 of a core to do it.
    assert found.blocks_s == pytest.approx(10.0, rel=0.05)


def run_of(scale, in_flight, ranks, blocks_s, turn_s, block_s, poll_s):
    each_turn = (turn_s + scale.IN_FLIGHT_S * in_flight) / 0.1
    share = (each_turn + block_s * blocks_s + 100 * poll_s * ranks) / (1 + each_turn)
    share += scale.at_rest()
    return {
        "in_flight": in_flight,
        "ranks": ranks,
        "blocks_s": blocks_s,
        "wall_s": 20.0,
        "cpu_s": {"ray::SplitCoordinator": 20.0 * share},
    }


def test_the_coordinators_costs_are_found_again(scale):
    known = (0.003, 0.010, 2e-5)
    runs = [run_of(scale, *run, *known) for run in ((6, 1, 9.0), (10, 4, 30.0), (66, 64, 28.0))]
    assert scale.coordinator_costs(runs, known[2]) == pytest.approx(known[:2], rel=1e-6)


def test_a_look_is_what_all_looks_cost_over_their_number(scale):
    polls = [{"poll_cpu_s": 0.4, "wall_s": 2.0, "ranks": 100}]
    assert scale.poll_cost(polls) == pytest.approx(0.2 / 100 / 100)


def test_background_is_what_no_block_asks_for(scale):
    used = {"ray::Shard": 5.0, "driver": 1.0, "dashboard.py": 2.0}
    one = {"wall_s": 10.0, "replicas": 4, "cpu_s": used}
    # And 4 replicas, 4 shards, 5 readers, loader, rank and coordinator at rest.
    assert scale.background(one) == pytest.approx(0.3 + 16 * scale.at_rest())


def test_measured_costs_give_the_measured_rates(scale):
    taken = scale.measured("scale_costs")
    costs, others = scale.costs_of(taken), scale.background(taken["serve"][0])
    lines = {one["case"]: one for one in scale.validation(costs, others, runs=1)}
    # Two cores that 40 blocks a second keep busy are slower than their sum of work; the rest agree.
    assert lines.pop("4:1-100ms")["simulated"] < 0.75
    for one in lines.values():
        assert one["simulated"] == pytest.approx(one["measured"], abs=0.05)


def test_what_it_bends_at_is_named(scale, model, free):
    case = model.Case(40, 4, 0.1, num_loaders=40)
    found = model.simulate(case, replace(free, block_s=0.05), rounds=20, fill=20)
    assert scale.bend(case, found) == "coordinator"
    alone = replace(case, num_loaders=1)
    found = model.simulate(alone, replace(free, loader_s=0.05), rounds=20, fill=20)
    assert scale.bend(alone, found) == "loaders"
