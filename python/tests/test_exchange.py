"""Arrays that are borrowed through the exchange table of their type."""

import numpy as np
import pytest

import espalier
import oracle
from exchange import Lent, Stubborn

PARENTS, TOKENS = [-1, 0, 0], [9, 3, 4]


@pytest.fixture
def plan():
    snapshot = espalier.make_snapshot(PARENTS, TOKENS, layout="contiguous")
    config = espalier.PlanConfig(espalier.HeadShape(4, 2, 8), "f16")
    config.capacity = espalier.Plan.required_capacity(snapshot, config)
    plan = espalier.Plan(config)
    plan.update(espalier.TreeArrays(snapshot))
    return plan


def problem():
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal(shape).astype(np.float16) for shape in ((2, 4, 8), (16, 2, 8), (16, 2, 8)))
    return q, k, v, np.empty_like(q), np.empty((2, 4), np.float32)


def test_attend_borrows_each_array_once(plan):
    q, k, v, out, lse = problem()
    lent = [Lent(q), Lent(k, skipped=32), Lent(v), Lent(out), Lent(lse)]
    espalier.attend(plan, *lent)
    expected = oracle.attend(oracle.paths_of(PARENTS, TOKENS), q, k, v)
    assert oracle.close(out, expected[0]) and oracle.close(lse, expected[1])
    assert [array.times for array in lent] == [1] * 5


def test_what_is_borrowed_is_checked_like_any_other(plan):
    q, k, v, out, _ = problem()
    with pytest.raises(ValueError, match="q has extent 1 in dimension 0, expected 2"):
        espalier.attend(plan, Lent(q[:1]), k, v, out)
    with pytest.raises(ValueError, match="v has elements of type int16, expected f16"):
        espalier.attend(plan, q, k, Lent(v.view(np.int16)), out)


def test_a_table_that_fails_is_passed_over(plan):
    q, k, v, out, _ = problem()
    espalier.attend(plan, q.view(Stubborn), k, v, out)
    assert oracle.close(out, oracle.attend(oracle.paths_of(PARENTS, TOKENS), q, k, v)[0])
