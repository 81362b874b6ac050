"""Rows through Ray Data, in order: the only file that knows `ray.data`.

One block descriptor in, one block of scored rows out. Blocks are dealt to the ranks in turn, so the
layout decides which rank sees which row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
import ray.train
from ray.data import ActorPoolStrategy, DataContext, ExecutionOptions, ExecutionResources
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raykd import schema
from raykd.config.reservations import READ_CPUS
from raykd.config.train import StreamConfig
from raykd.data.layout import BlockLayout
from raykd.data.order import RowOrder
from raykd.data.pace import Pace
from raykd.data.prepare import PreparedRows, open_rows

Score = Callable[[pa.Table], Awaitable[pa.Table]]
"""Rows of `schema.ORDERED` to their soft targets and `teacher_s`, row for row."""


@runtime_checkable
class HoldsBack(Protocol):
    """A `Score` that keeps what it hears, and publishes it later: flushed after the last blocks."""

    def flush(self) -> None:
        """Publish what is held back."""
        ...


@dataclass(frozen=True)
class StreamSource:
    """What a loader needs to make blocks; small enough to travel."""

    rows_directory: str
    order: RowOrder
    layout: BlockLayout
    score: Score | None
    """None streams rows without soft targets."""
    targets: pa.Schema
    """Columns of the soft targets."""
    last_blocks: int = 0
    """How many of the last blocks end with a flush."""


class BlockLoader:
    """Reads the rows of a block and has them scored, many blocks at once."""

    def __init__(self, source: StreamSource) -> None:
        self._source = source
        self._rows: PreparedRows = open_rows(Path(source.rows_directory))

    async def __call__(self, blocks: pa.Table) -> pa.Table:
        """One descriptor (`id`) to that block's rows."""
        (block,) = blocks.column("id").to_pylist()
        layout = self._source.layout
        if self._source.score is None:
            return await asyncio.to_thread(self._read, layout.places(block))
        rows = await asyncio.to_thread(self._read, layout.whole_places(block))
        targets = await self._source.score(rows)
        if block >= layout.num_blocks - self._source.last_blocks:
            await asyncio.to_thread(_flush, self._source.score)
        done_before = rows.num_rows - len(layout.places(block))
        return join(rows, targets, self._source.targets).slice(done_before)

    def _read(self, places: np.ndarray[Any, Any]) -> pa.Table:
        return ordered_rows(self._rows, self._source.order, places)


def _flush(score: Score) -> None:
    # Ray ends a loader without a word; what it holds back would be lost.
    held: object = score
    if isinstance(held, HoldsBack):
        held.flush()


class BlockScorer(BlockLoader):
    """The same for their scores' sake: rows are scored, and only their number goes on."""

    async def __call__(self, blocks: pa.Table) -> pa.Table:
        """One descriptor (`id`) to the number of rows scored (`rows`)."""
        scored = await super().__call__(blocks)
        return pa.table({"rows": pa.array([scored.num_rows], pa.int64())})


def ordered_rows(rows: PreparedRows, order: RowOrder, places: np.ndarray[Any, Any]) -> pa.Table:
    """The rows at places of the run, with their place and their index."""
    sources = np.concatenate([order.source_rows(a, b) for a, b in _runs(places)])
    table = rows.take(sources)
    columns = [pa.array(places, pa.int64()), pa.array(sources, pa.int64()), *table.columns]
    return schema.check_columns(
        pa.table(columns, schema=schema.ORDERED), schema.ORDERED, "ordered rows"
    )


def _runs(places: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Stretches of consecutive places, as [start, stop)."""
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(places, breaks)]


def join(rows: pa.Table, targets: pa.Table, target_schema: pa.Schema) -> pa.Table:
    """Rows with their soft targets beside them."""
    table = pa.table(
        [*rows.columns, *targets.columns], names=rows.column_names + targets.column_names
    )
    return schema.check_columns(table, schema.scored(target_schema), "scored rows")


class BlockIds(Datasource):
    """One block a descriptor; `ray.data.range` would reserve a whole CPU to name each."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._num_blocks = num_blocks

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all descriptors."""
        return 8 * self._num_blocks

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """One task a block, whatever parallelism is asked for."""
        metadata = BlockMetadata(num_rows=1, size_bytes=8, input_files=None, exec_stats=None)
        schema_ = pa.schema([pa.field("id", pa.int64())])
        return [
            ReadTask(partial(_descriptor, block), metadata, schema=schema_)
            for block in range(self._num_blocks)
        ]


def _descriptor(block: int) -> list[pa.Table]:
    return [pa.table({"id": pa.array([block], pa.int64())})]


@dataclass(frozen=True)
class OrderedStream:
    """Makes the dataset anew at every start of the student group, from where the run stands."""

    rows_directory: str
    order: RowOrder
    layout_from: Callable[[int], BlockLayout]
    """First step to the layout from there on."""
    first_step: Callable[[], int]
    """Steps that are done by now."""
    score: Score | None
    targets: pa.Schema
    """Columns of the soft targets."""
    config: StreamConfig
    requests_in_flight: int

    def __call__(self) -> ray.data.Dataset:
        """A lazy dataset of the blocks that are left, in order."""
        layout = self.layout_from(self.first_step())
        return _dataset(self._source(layout), BlockLoader, self.config, self.requests_in_flight)

    def score_only(self) -> Iterator[int]:
        """Score all rows that are left, on the loaders alone.

        Returns:
            The rows of each block, as blocks are done.
        """
        source = self._source(self.layout_from(self.first_step()))
        dataset = _dataset(source, BlockScorer, self.config, self.requests_in_flight)
        dataset.context.execution_options = ExecutionOptions(preserve_order=False)
        batches: Iterator[Any] = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
        for batch in batches:
            yield int(pc.sum(batch.column("rows")).as_py())

    def _source(self, layout: BlockLayout) -> StreamSource:
        return StreamSource(
            self.rows_directory,
            self.order,
            layout,
            self.score,
            self.targets,
            last_blocks=2 * self.requests_in_flight,
        )


def _dataset(
    source: StreamSource,
    loader: type[BlockLoader],
    config: StreamConfig,
    requests_in_flight: int,
) -> ray.data.Dataset:
    blocks = source.layout.num_blocks
    context = DataContext.get_current()
    # A block is a promise about ranks and steps: it is never split or merged by size.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [Pace]
    loaders = min(config.num_loaders, requests_in_flight)
    each = -(-requests_in_flight // loaders)
    ids: Any = ray.data.read_datasource(
        BlockIds(blocks),
        override_num_blocks=blocks,
        num_cpus=READ_CPUS,
        **_placed(config),
        # A bound, or Ray starts as many processes as fit into the free CPUs; one alone names about
        # five blocks a second and starves four replicas.
        concurrency=max(4, requests_in_flight // 2),
    )
    dataset: ray.data.Dataset = ids.map_batches(
        loader,
        fn_constructor_args=(source,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=config.cpus_per_loader,
        **_placed(config),
        compute=ActorPoolStrategy(
            size=loaders,
            max_tasks_in_flight_per_actor=each,
            max_concurrent_calls_per_actor=each,
        ),
    )
    return dataset


def _placed(config: StreamConfig) -> dict[str, Any]:
    """Which nodes a task or an actor of the stream may run on."""
    return {"label_selector": config.labels} if config.labels else {}


class DealInOrder(ray.train.DataConfig):
    """Deals blocks to the ranks in turn: block j goes to rank j mod W."""

    def __init__(self, object_store_bytes: int | None) -> None:
        super().__init__()
        self._object_store_bytes = object_store_bytes

    def configure(
        self,
        datasets: dict[str, ray.data.Dataset],
        world_size: int,
        worker_handles: list[Any] | None,
        worker_node_ids: list[str] | None,
        **_: Any,
    ) -> list[dict[str, ray.data.DataIterator]]:
        """Split every dataset; called by Ray Train at each start of the group.

        Blocks hold equally many rows, so that dealing to whoever has least is dealing in turn.
        Placement by locality would break that, and is off.
        """
        options = ExecutionOptions(preserve_order=True)
        if self._object_store_bytes is not None:
            options.resource_limits = ExecutionResources.for_limits(
                object_store_memory=self._object_store_bytes
            )
        shares: list[dict[str, ray.data.DataIterator]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            dataset.context.execution_options = options
            parts = dataset.streaming_split(world_size, equal=False, locality_hints=None)
            for share, part in zip(shares, parts, strict=True):
                share[name] = part
        return shares
