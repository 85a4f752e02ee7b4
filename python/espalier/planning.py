"""Plans for trees whose size is not known beforehand."""

from ._core import Plan, PlanCapacity, PlanConfig, TreeArrays

_FIELDS = ("nodes", "rows", "segments", "tiles", "partials")
_MOST = 2**31 - 1


class GrowingPlan:
    """A plan that is made again, twice as large, when a tree does not fit.

    Making it allocates, and invalidates captured graphs; where that must not happen, give a Plan the capacity it will
    ever need.
    """

    def __init__(self, config: PlanConfig):
        """config: what plans are made for; its capacity is the least that they get."""
        self._config = config
        self._plan: Plan | None = None
        self._arrays: TreeArrays | None = None
        self._blocks = 0

    def update(self, snapshot, stream: int = 0) -> Plan:
        """Plans a TreeSnapshot, and returns the plan to attend with; enqueued on the stream."""
        need = Plan.required_capacity(snapshot, self._config, stream)
        if self._plan is None or self._arrays is None or not self._fits(self._plan.config.capacity, need, snapshot):
            self._plan, self._arrays = self._grown(need, snapshot, stream)
        self._arrays.upload(snapshot, stream)
        self._plan.update(self._arrays, stream)
        return self._plan

    def _fits(self, have, need, snapshot):
        return len(snapshot.block_table) <= self._blocks and all(
            getattr(need, field) <= getattr(have, field) for field in _FIELDS
        )

    def _grown(self, need, snapshot, stream):
        least = self._config.capacity
        room = {field: max(getattr(least, field), _twice(getattr(need, field))) for field in _FIELDS}
        self._blocks = _twice(len(snapshot.block_table))
        self._config.capacity = PlanCapacity(**room)
        arrays = TreeArrays(nodes=room["nodes"], rows=room["rows"], blocks=self._blocks, stream=stream)
        return Plan(self._config, stream), arrays


def _twice(count):
    return min(2 * max(count, 1), _MOST)
