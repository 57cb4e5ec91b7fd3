"""Nothing is computed twice, nothing half-written is read, and what cannot be computed says why."""

import json

import numpy as np
import pytest

from cmssl_hf.evaluation.plan import combinations, read_plan
from cmssl_hf.evaluation.results_store import Combination, Outcome, ResultsStore
from cmssl_hf.evaluation.row_names import rows_of_task
from cmssl_hf.tasks import get_task


ONE = Combination("bidmc_hr", "joint_full", 0.1, 2, fold=3)


def outcome(identity="a", **fields):
    return Outcome({"identity": identity}, rows=np.array([3, 5]), predictions=np.array([[60.0], [71.5]]), **fields)


def test_an_outcome_comes_back_as_it_was(tmp_path):
    store = ResultsStore(tmp_path)
    assert not store.is_finished(ONE, "a")
    store.save(ONE, outcome())
    assert store.is_finished(ONE, "a")
    loaded = store.load(ONE)
    assert loaded.rows.tolist() == [3, 5] and loaded.predictions.tolist() == [[60.0], [71.5]]
    assert store.all().keys() == {ONE}


def test_refusals_are_kept_and_tried_again(tmp_path):
    store = ResultsStore(tmp_path)
    store.save(ONE, Outcome({"identity": "a"}, refusal="too few subjects"))
    assert not store.is_finished(ONE, "a")
    assert store.load(ONE).refusal == "too few subjects" and store.load(ONE).predictions is None


def test_results_of_another_recipe_are_not_taken_for_these(tmp_path):
    store = ResultsStore(tmp_path)
    store.save(ONE, outcome("a"))
    with pytest.raises(ValueError, match="holds results of another model, recipe or data"):
        store.is_finished(ONE, "b")


def test_what_another_process_claims_is_left_to_it(tmp_path):
    first, second = ResultsStore(tmp_path), ResultsStore(tmp_path)
    with first.claim(ONE) as mine:
        assert mine
        with second.claim(ONE) as also_mine:
            assert not also_mine
    with second.claim(ONE) as mine:
        assert mine


def test_damaged_files_are_named_and_unfinished_ones_are_not_seen(tmp_path):
    store = ResultsStore(tmp_path)
    (tmp_path / ".x.tmp.npz").write_bytes(b"half")
    assert store.all() == {}
    store.path(ONE).write_bytes(b"half")
    with pytest.raises(ValueError, match=r"bidmc_hr-fold3-joint_full-0\.1-seed2\.npz is damaged .* delete it"):
        store.all()


def test_names_are_unique():
    several = [
        Combination(task, row, fraction, seed, fold)
        for task in ("bidmc_hr", "ptb_xl")
        for row in ("mean", "median")
        for fraction in (0.1, 1.0)
        for seed in (0, 1)
        for fold in (None, 0, 1)
    ]
    assert len({combination.name for combination in several}) == len(several)


PLAN = {
    "seeds": [0, 1, 2],
    "fractions": [0.1, 1.0],
    "num_folds": 5,
    "tasks": {"bidmc_hr": {"full_on_folds": ["scratch"]}, "ptb_xl": {"splits": ["paper"]}},
}


ENCODERS = {"ppg": {"own": ["a"], "joint": ["b", "c"]}, "ecg": {"joint": ["d"]}}


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "plan.yaml").write_text(json.dumps(PLAN))
    return read_plan(tmp_path / "plan.yaml")


def test_a_plan_lists_everything_once(plan):
    found = combinations(plan, ENCODERS)
    assert len(set(found)) == len(found)
    # Heart rate: 10 rows on the published split, 6 without full training on 5 folds, one with it and one seed.
    heart_rate = 10 * 2 * 3 + 6 * 2 * 3 * 5 + 1 * 1 * 1 * 5
    superclasses = 7 * 2 * 3
    assert len(found) == heart_rate + superclasses
    first_full = next(
        index
        for index, one in enumerate(found)
        if one.row in ("scratch", "scratch_same_steps", "own_full", "joint_full")
    )
    assert all(one.row not in ("mean", "joint_frozen") for one in found[first_full:])


def test_parts_of_a_plan(plan):
    part = combinations(plan, ENCODERS, tasks=["ptb_xl"], rows=["scratch"])
    assert {(one.task, one.row) for one in part} == {("ptb_xl", "scratch")} and len(part) == 6
    assert all(one.fold is not None for one in combinations(plan, ENCODERS, splits=["folds"]))
    for wrong, message in (
        ({"tasks": ["x"]}, "There is no task x; there are bidmc_hr, ptb_xl"),
        ({"rows": ["clip_full"]}, "There is no row clip_full; there are mean, median, .* joint_full"),
        ({"splits": ["z"]}, "There is no split z; there are paper, folds"),
    ):
        with pytest.raises(ValueError, match=message):
            combinations(plan, ENCODERS, **wrong)


def test_rows_of_tasks():
    assert rows_of_task(get_task("bidmc_hr"), ["simclr", "clip"]) == [
        *("mean", "median", "classical", "random_frozen", "clip_frozen", "simclr_frozen"),
        *("scratch", "scratch_same_steps", "clip_full", "simclr_full"),
    ]
    assert rows_of_task(get_task("ptb_xl"), [])[:2] == ["majority", "classical"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {"x": {}}}, "Unknown task 'x'"),
        ({"sedes": [1]}, "names options that do not exist: sedes"),
        ({"tasks": {"bidmc_hr": {"recipes": {}}}}, "bidmc_hr names options that do not exist: recipes"),
        ({"tasks": {"bidmc_hr": {"splits": ["fold"]}}}, "bidmc_hr: there is no fold"),
        ({"tasks": {"bidmc_hr": {"full_on_folds": ["joint_frozen"]}}}, "bidmc_hr: there is no joint_frozen"),
        ({"comparisons": [["joint_full", "nothing"]]}, r"holds pairs such as .*, but has \['joint_full', 'nothing'\]"),
        ({"comparisons": ["scratch"]}, "holds pairs such as"),
        ({"tasks": None}, "must hold `tasks`"),
    ],
)
def test_slips_in_a_plan_are_named(change, message, tmp_path):
    (tmp_path / "plan.yaml").write_text(json.dumps(PLAN | change))
    with pytest.raises(ValueError, match=message):
        read_plan(tmp_path / "plan.yaml")
