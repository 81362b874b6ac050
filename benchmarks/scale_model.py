"""A SIMULATION of raykd's stream: discrete events, one for each thing that happens to a block.

The layout is raykd's own. A reader names block after block; a loader reads its rows and asks a
replica; Ray Data's loop, in the split coordinator, takes notice ten times a second at most, keeps
the order and deals block j to rank j mod W; all ranks of a round go on together. What a process
spends on a block is given (`Costs`, measured by `scale_costs.py`); models sleep.

Left out: the time that a network takes, for which bytes are added up instead; nodes; Serve's
controller; what Ray Data does before the first block; the store of soft targets; checkpoints; a
restart of the student group.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

ONGOING = 4
"""Requests that a replica may hold; raykd's `ONGOING_REQUESTS`."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.025, 0.5
"""Pauses of Serve's router when the replicas that it looked at are full; they double."""
STALE_S = 10.0
"""A router believes what it knows of a queue for so long, then asks."""
POLL_S = 0.01
"""A rank that waits looks for its block this often, in a thread of the coordinator."""
AHEAD = 3
"""Blocks that a rank takes before it needs them: Ray Data's two batches and raykd's one."""
SLICE_S = 0.005
"""Processes that share cores take turns of this length."""

Events = Generator[Any, Any, None]


@dataclass(frozen=True)
class Costs:
    """CPU seconds, each of one process, unless said otherwise."""

    pause_s: float
    """Seconds that Ray Data's loop waits in each turn; raykd's `SHORTEST_TURN_S`."""
    turn_s: float
    """The loop, each turn."""
    in_flight_s: float
    """The loop, each turn, for every block with a loader; assumed."""
    block_s: float
    """Coordinator: a block named, given to a loader, taken back, put in order, dealt, fetched."""
    poll_s: float
    """Coordinator: one look of one rank that waits."""
    reader_s: float
    """To name a block."""
    naming_s: float
    """Seconds, not of a CPU, that Ray takes to have a block named: a task is leased and run.
    On average; drawn between zero and twice as much."""
    loader_s: float
    """A block: read, asked for, joined."""
    loader_byte_s: float
    """A byte more of a block."""
    replica_s: float
    """A request passed on; the model does not wait for it."""
    shard_s: float
    """A request taken and answered; the model waits for it."""
    rank_s: float
    """A block on its rank, beside the step."""
    daemons_s: float
    """Ray's daemons, a block; counts where all share one node's cores."""


@dataclass(frozen=True)
class Case:
    """How much of everything, and how fast."""

    replicas: int
    ranks: int
    block_s: float
    """Seconds of a replica on one block, on average."""
    round_s: float | None = None
    """Seconds of the ranks on one block each; None is as fast as the teacher."""
    cv: float = 0.0
    """Standard deviation over mean of a replica's seconds, lognormal."""
    student_cv: float = 0.0
    """The same of a round."""
    num_loaders: int = 1
    in_flight: int | None = None
    """`stream.requests_in_flight`; None is raykd's default."""
    block_bytes: float = 0.0
    """Of a block with its soft targets."""
    base_bytes: float = 0.0
    """Of the blocks that `Costs.loader_s` was measured with."""
    store_bytes: float = math.inf
    """Of the smallest node's object store."""
    lifetime_s: float | None = None
    """Mean seconds until a replica dies; None is never."""
    restart_s: float = 60.0
    """Seconds until another is in its place."""
    cores: int | None = None
    """Of the one node that all share; None gives every process a core."""
    others: float = 0.0
    """Cores' worth that processes outside the stream take of that node."""
    router: str = "two"
    """`two`: the shorter of two queues, drawn at random, as far as the router knows them, which is
    Serve's way; `best`: the shortest of all."""

    @property
    def window(self) -> int:
        """Blocks with loaders at once."""
        return self.in_flight or 2 * self.replicas + 2

    @property
    def ideal_blocks_s(self) -> float:
        """Blocks a second of the slower side."""
        teacher = self.replicas / self.block_s
        return teacher if self.round_s is None else min(teacher, self.ranks / self.round_s)

    @property
    def seconds_a_round(self) -> float:
        """Of the student."""
        return self.round_s or self.ranks * self.block_s / self.replicas

    @property
    def cap_blocks(self) -> float:
        """Blocks between the two sides at most; the rule of `pipeline/plan.py`."""
        if not self.block_bytes or math.isinf(self.store_bytes):
            return math.inf
        few = (self.window + 2 * self.ranks) * self.block_bytes
        most = min(max(self.store_bytes / 4, few), self.store_bytes / 2)
        return max(1.0, most / self.block_bytes)


@dataclass
class Replica:
    """One replica: a queue, and what ends with it."""

    work: simpy.Resource
    death: simpy.Event | None = None
    ongoing: int = 0
    busy_s: float = 0.0


@dataclass
class Loader:
    """One loader: blocks it holds, and its one thread of Python."""

    thread: simpy.Resource
    held: int = 0
    busy_s: float = 0.0
    asking: deque[Any] = field(default_factory=deque)
    """Requests that wait for a replica, oldest first."""
    known: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Replica to when its queue was told and how long it is for all that is known."""


@dataclass
class Seen:
    """What happened when."""

    rounds: list[float] = field(default_factory=list)
    scored: list[float] = field(default_factory=list)
    scored_s: list[float] = field(default_factory=list)
    """What the models really took, a block and a round each."""
    rounds_s: list[float] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    """Blocks as they were dealt."""
    turns: int = 0
    coordinator_s: float = 0.0
    lost: int = 0
    most_between: int = 0
    student_wait_s: float = 0.0


class Stream:
    """One run of a case; `run` gives what it showed."""

    def __init__(
        self, case: Case, costs: Costs, num_rounds: int, *, after: int = 0, seed: int = 0
    ) -> None:
        self.case, self.costs, self.seen = case, costs, Seen()
        self._last_round = num_rounds
        num_rounds += after
        self._env = env = simpy.Environment()
        self._draws = np.random.default_rng(seed)
        self._cores = simpy.Resource(env, case.cores) if case.cores else None
        self._num_blocks, self._num_rounds = num_rounds * case.ranks, num_rounds
        self._replicas = [Replica(simpy.Resource(env)) for _ in range(case.replicas)]
        self._living = list(range(case.replicas))
        loaders = min(case.num_loaders, case.window)
        self._loaders = [Loader(simpy.Resource(env)) for _ in range(loaders)]
        self._slots = -(-case.window // loaders)
        self._readers = max(4, case.window // 2)
        self._naming = self._named = self._loading = self._between = 0
        self._next_name = self._next_load = self._next_deal = 0
        self._names_done = 0
        self._loads_done: list[tuple[int, Loader]] = []
        self._waits_for_order: set[int] = set()
        self._outputs = [simpy.Store(env) for _ in range(case.ranks)]
        self._room = [simpy.Container(env, AHEAD, AHEAD) for _ in range(case.ranks)]
        self._arrived = [0] * num_rounds
        self._complete = [env.event() for _ in range(num_rounds)]
        self._num_waiting, self._changed, self._waited_s, self._looked = 0, 0.0, 0.0, 0.0

    def run(self) -> Seen:
        """Until `num_rounds` are learned from; blocks of `after` more may be under way then."""
        env, case = self._env, self.case
        if case.lifetime_s is not None:
            for number in range(case.replicas):
                env.process(self._life(number))
        env.process(self._coordinator())
        for rank in range(case.ranks):
            env.process(self._rank(rank))
        env.run(until=env.process(self._student()))
        return self.seen

    # --- Ray Data's loop --------------------------------------------------------------------------

    def _coordinator(self) -> Events:
        env, costs = self._env, self.costs
        while True:
            yield env.timeout(costs.pause_s)
            self.seen.turns += 1
            work = costs.turn_s + costs.in_flight_s * self._loading
            named, self._names_done = self._names_done, 0
            self._naming -= named
            self._named += named
            loaded, self._loads_done = self._loads_done, []
            for block, loader in loaded:
                loader.held -= 1
                self._loading -= 1
                self._waits_for_order.add(block)
            given = self._take_to_load()
            self._name_more()
            # Half of a block's cost is on the way out, half on the way back.
            work += costs.block_s * (len(loaded) + len(given)) / 2
            polls_share = min(0.9, self._ranks_waiting() * costs.poll_s / POLL_S)
            work /= 1 - polls_share
            self.seen.coordinator_s += work + polls_share * costs.pause_s
            yield from self._cpu(work)
            self._deal()
            for block, loader in given:
                env.process(self._load(block, loader))

    def _take_to_load(self) -> list[tuple[int, Loader]]:
        given = []
        while self._named and self._next_load < self._num_blocks:
            loader = min(self._loaders, key=lambda one: one.held)
            if loader.held >= self._slots or self._loading >= self.case.window:
                break
            if self._between >= self.case.cap_blocks and not self._starved(given):
                break
            self._named -= 1
            loader.held += 1
            self._loading += 1
            self._between += 1
            given.append((self._next_load, loader))
            self._next_load += 1
        self.seen.most_between = max(self.seen.most_between, self._between)
        return given

    def _starved(self, given: list[Any]) -> bool:
        """Ray Data lets one task run past the cap where ranks have nothing and nothing comes."""
        nothing = not self._loading and not given and not self._waits_for_order
        return nothing and not any(output.items for output in self._outputs)

    def _name_more(self) -> None:
        # Named blocks are not hoarded: Ray Data holds back a stage whose reader is behind.
        while (
            self._naming < self._readers
            and self._naming + self._named < self.case.window
            and self._next_name < self._num_blocks
        ):
            self._naming += 1
            self._next_name += 1
            self._env.process(self._name())

    def _name(self) -> Events:
        yield self._env.timeout(self._draws.uniform(0, 2 * self.costs.naming_s))
        yield from self._cpu(self.costs.reader_s)
        self._names_done += 1

    def _deal(self) -> None:
        while self._next_deal in self._waits_for_order:
            self._waits_for_order.remove(self._next_deal)
            self.seen.order.append(self._next_deal)
            self._outputs[self._next_deal % self.case.ranks].put(self._next_deal)
            self._next_deal += 1

    # --- loaders and the teacher ------------------------------------------------------------------

    def _load(self, block: int, loader: Loader) -> Events:
        if self._cores is not None:
            self._env.process(self._cpu(self.costs.daemons_s))
        more = max(0.0, self.case.block_bytes - self.case.base_bytes) * self.costs.loader_byte_s
        seconds = self.costs.loader_s + more
        yield from self._on(loader, seconds / 2)
        lost = 0
        while not (yield from self._ask(loader)):
            lost += 1
            yield self._env.timeout(0.5 * 2 ** (lost - 1) * self._draws.uniform(0.5, 1.5))
        yield from self._on(loader, seconds / 2)
        self._loads_done.append((block, loader))

    def _on(self, loader: Loader, seconds: float) -> Events:
        with loader.thread.request() as turn:
            yield turn
            loader.busy_s += seconds
            yield from self._cpu(seconds)

    def _ask(self, loader: Loader) -> Generator[Any, Any, bool]:
        """One try of a request; False where it is lost with its replica."""
        chosen = self._env.event()
        loader.asking.append(chosen)
        self._env.process(self._route(loader))
        number = yield chosen
        replica = self._replicas[number]
        try:
            yield from self._cpu(self.costs.replica_s)
            with replica.work.request() as turn:
                if not (yield from self._or_death(replica, turn)):
                    return False
                seconds = self._draw(self.case.block_s, self.case.cv)
                began = self._env.now
                if not (yield from self._or_death(replica, self._env.timeout(seconds))):
                    return False
                yield from self._cpu(self.costs.shard_s)
                replica.busy_s += self._env.now - began
        finally:
            replica.ongoing -= 1
            told, length = loader.known[number]
            if self._env.now - told <= STALE_S:
                loader.known[number] = (self._env.now, max(0, length - 1))
        self.seen.scored.append(self._env.now)
        self.seen.scored_s.append(seconds)
        return True

    def _or_death(self, replica: Replica, event: Any) -> Generator[Any, Any, bool]:
        if replica.death is None:
            yield event
            return True
        death = replica.death
        if not death.triggered:
            yield event | death
        if death.triggered:
            self.seen.lost += 1
            return False
        return True

    def _route(self, loader: Loader) -> Events:
        """Serve's router: whoever finds a replica gives it to the oldest request."""
        pause_s = FIRST_BACKOFF_S
        while (number := self._choose(loader)) is None:
            yield self._env.timeout(pause_s)
            pause_s = min(LONGEST_BACKOFF_S, 2 * pause_s)
        replica = self._replicas[number]
        replica.ongoing += 1
        loader.known[number] = (self._env.now, replica.ongoing)
        loader.asking.popleft().succeed(number)

    def _choose(self, loader: Loader) -> int | None:
        living = self._living
        if not living:
            return None
        if self.case.router == "best":
            number = min(living, key=lambda one: self._replicas[one].ongoing)
            return number if self._replicas[number].ongoing < ONGOING else None
        first = second = int(self._draws.integers(len(living)))
        if len(living) > 1:
            second = int(self._draws.integers(len(living) - 1))
            second += second >= first
        pair = living[first], living[second]
        number = min(pair, key=lambda one: self._believed(loader, one))
        if self._believed(loader, number) >= ONGOING:
            return None
        if self._replicas[number].ongoing >= ONGOING:
            # The replica refuses, and tells how long its queue is.
            loader.known[number] = (self._env.now, self._replicas[number].ongoing)
            return None
        return number

    def _believed(self, loader: Loader, number: int) -> int:
        told, length = loader.known.get(number, (-math.inf, 0))
        if self._env.now - told > STALE_S:
            length = self._replicas[number].ongoing
            loader.known[number] = (self._env.now, length)
        return length

    def _life(self, number: int) -> Events:
        replica = self._replicas[number]
        while True:
            replica.death = self._env.event()
            assert self.case.lifetime_s is not None
            yield self._env.timeout(self._draws.exponential(self.case.lifetime_s))
            self._living.remove(number)
            replica.death.succeed()
            yield self._env.timeout(self.case.restart_s)
            self._living.append(number)

    # --- ranks ------------------------------------------------------------------------------------

    def _rank(self, rank: int) -> Events:
        for number in range(self._num_rounds):
            yield self._room[rank].get(1)
            if not self._outputs[rank].items:
                self._change_waiting(1)
                block = yield self._outputs[rank].get()
                self._change_waiting(-1)
                yield self._env.timeout(self._draws.uniform(0, POLL_S))
            else:
                block = yield self._outputs[rank].get()
            assert block == number * self.case.ranks + rank, "a rank got another's block"
            self._arrived[number] += 1
            if self._arrived[number] == self.case.ranks:
                self._complete[number].succeed()

    def _change_waiting(self, by: int) -> None:
        self._waited_s += self._num_waiting * (self._env.now - self._changed)
        self._changed = self._env.now
        self._num_waiting += by

    def _ranks_waiting(self) -> float:
        """On average since the last look."""
        self._change_waiting(0)
        average = self._waited_s / (self._env.now - self._looked)
        self._waited_s, self._looked = 0.0, self._env.now
        return average

    def _student(self) -> Events:
        for number in range(self._last_round):
            began = self._env.now
            yield self._complete[number]
            self.seen.student_wait_s += self._env.now - began
            yield from self._cpu(self.costs.rank_s)
            seconds = self._draw(self.case.seconds_a_round, self.case.student_cv)
            self.seen.rounds_s.append(seconds)
            yield self._env.timeout(seconds)
            self._between -= self.case.ranks
            for room in self._room:
                yield room.put(1)
            self.seen.rounds.append(self._env.now)

    # --- time -------------------------------------------------------------------------------------

    def _draw(self, mean_s: float, cv: float) -> float:
        if not cv:
            return mean_s
        sigma = math.sqrt(math.log1p(cv**2))
        return mean_s * math.exp(self._draws.normal(-(sigma**2) / 2, sigma))

    def _cpu(self, seconds: float) -> Events:
        if self._cores is None:
            yield self._env.timeout(seconds)
            return
        seconds /= 1 - self.case.others / self.case.cores
        while seconds > 0:
            with self._cores.request() as turn:
                yield turn
                yield self._env.timeout(min(seconds, SLICE_S))
            seconds -= SLICE_S


@dataclass(frozen=True)
class Outcome:
    """What a simulated run showed, after its first rounds."""

    blocks_s: float
    share: float
    """Of the ideal rate."""
    share_of_drawn: float
    """Of the rate that the drawn seconds allow; as the ideal, but for the luck of a short run."""
    student_wait_share: float
    turn_s: float
    coordinator_share: float
    """Of one core."""
    loader_share: float
    """Of the busiest loader's core."""
    replica_share: float
    """At work, on average."""
    lost: int
    most_between: int
    bytes_s: float
    """From teacher to student; each byte goes to a loader and from there to a rank."""


def simulate(case: Case, costs: Costs, *, rounds: int, fill: int, seed: int = 0) -> Outcome:
    """Run a case; `fill` rounds do not count for the rate.

    Args:
        case: The case.
        costs: What processes spend.
        rounds: Rounds that count; a round is a block for each rank.
        fill: Rounds before.
        seed: Of jitter, deaths and the router.
    """
    after = -(-case.window // case.ranks) + AHEAD + 1
    stream = Stream(case, costs, fill + rounds, after=after, seed=seed)
    seen = stream.run()
    start, stop = seen.rounds[fill - 1], seen.rounds[-1]
    rate = rounds * case.ranks / (stop - start)
    if len(seen.scored) < (fill + rounds + after) * case.ranks:
        # A teacher that was ahead could be too slow unseen: its own rate in the same time.
        rate = min(rate, sum(1 for one in seen.scored if one > start) / (stop - start))
    scored_s = [s for s, at in zip(seen.scored_s, seen.scored, strict=True) if at > start]
    drawn = min(
        case.replicas / float(np.mean(scored_s or [case.block_s])),
        case.ranks / float(np.mean(seen.rounds_s[fill:])),
    )
    return Outcome(
        blocks_s=rate,
        share=rate / case.ideal_blocks_s,
        share_of_drawn=rate / drawn,
        student_wait_share=seen.student_wait_s / stop,
        turn_s=stop / seen.turns,
        coordinator_share=min(1.0, seen.coordinator_s / stop),
        loader_share=max(one.busy_s for one in stream._loaders) / stop,
        replica_share=sum(one.busy_s for one in stream._replicas) / len(stream._replicas) / stop,
        lost=seen.lost,
        most_between=seen.most_between,
        bytes_s=rate * case.block_bytes,
    )
