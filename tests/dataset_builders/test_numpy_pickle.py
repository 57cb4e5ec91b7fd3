"""Pickles of numpy arrays: whole ones are read as numpy reads them, and no state, however damaged, reaches numpy."""

import os
import pickle
import pickletools
import subprocess
import sys

import numpy as np
import pytest

from cmssl_hf.dataset_builders.ppg_dalia.numpy_pickle import load_numpy_pickle
from helpers.fuzzing import mutate
from helpers.releases import dalia_content, write_dalia_subject


class Reduced:
    """Pickled as a call of a function, and a state that the result is given."""

    def __init__(self, function, arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


FROM_BUFFER = np.zeros(2).__reduce_ex__(5)[0]
RECONSTRUCT = np.empty(0).__reduce__()[0]
SCALAR = np.float64(0).__reduce__()[0]
PLAIN = (3, "<", None, None, None, -1, -1, 0)


def dtype(name="f8", state=PLAIN):
    return Reduced(np.dtype, (name, False, True), state)


def array(state, shape=(0,), kind=np.ndarray):
    return Reduced(RECONSTRUCT, (kind, shape, b"b"), state)


def load(content, tmp_path, protocol=2):
    path = tmp_path / "a.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return load_numpy_pickle(path)


ARRAYS = {
    **{
        name: np.arange(6).reshape(2, 3).astype(name)
        for name in ("<f2", "<f4", ">f8", "<i2", ">i4", "|u1", "<i8", "?")
    },
    "by columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.empty((0, 3)),
    "no dimension": np.array(3.5),
    "not contiguous": np.arange(10.0)[::3],
    "axes in another order": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "read-only": np.broadcast_to(np.arange(3.0), (3,)),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("expected", ARRAYS.values(), ids=ARRAYS)
def test_arrays_are_read_as_they_were_written(expected, protocol, tmp_path):
    read = load(expected, tmp_path, protocol)
    assert read.dtype == expected.dtype and read.shape == expected.shape
    np.testing.assert_array_equal(read, expected)
    read[...] = 0  # It is the reader's own.


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_containers_scalars_and_objects(protocol, tmp_path):
    shared = np.arange(3.0)
    objects = np.empty((2, 2), dtype=object)
    objects[0, 0], objects[0, 1], objects[1, 0], objects[1, 1] = [1, 2], shared, None, "text"
    written = {
        "a": [shared, (shared, {"b": np.float32(1.5)})],
        "objects": objects,
        "n": np.int64(-3),
        "t": np.bool_(1),
    }
    read = load(written, tmp_path, protocol)
    np.testing.assert_array_equal(read["a"][0], shared)
    assert read["a"][1][0] is read["a"][0] is read["objects"][0, 1]
    assert type(read["a"][1][1]["b"]) is np.float32 and read["a"][1][1]["b"] == 1.5
    assert (read["objects"].shape, read["objects"][0, 0], read["objects"][1, 1]) == ((2, 2), [1, 2], "text")
    assert (read["n"], read["t"]) == (-3, True)


def test_list_that_holds_itself(tmp_path):
    written = [np.arange(2.0)]
    written.append((written,))
    read = load(written, tmp_path)
    assert read[1][0] is read
    np.testing.assert_array_equal(read[0], [0, 1])


def test_texts_of_python_2_are_bytes_of_arrays(tmp_path):
    """As Python 2 wrote them: protocol 2 with the bytes of an array as a string."""
    values = np.array([1.5, -2.0])
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\n"
        b"U\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
        + values.tobytes()
        + b"tb."
    )
    np.testing.assert_array_equal(load(content, tmp_path), values)


EIGHT = b"\x00" * 8
REFUSED = {
    "type with fields": (array((1, (1,), dtype(state=(3, "<", None, ("a",), {"a": (np.dtype("f8"), 0)}, 8, 8, 0)), False, EIGHT)), "plain"),
    "type with sub-array": (array((1, (1,), dtype(state=(3, "<", (np.dtype("f8"), (9,)), None, None, -1, -1, 0)), False, EIGHT)), "plain"),
    "type of another size": (array((1, (1,), dtype(state=(3, "<", None, None, None, 10**9, 1, 0)), False, EIGHT)), "plain"),
    "type with a short state": (array((1, (1,), dtype(state=(3, "<")), False, EIGHT)), "plain"),
    "order that there is not": (array((1, (1,), dtype(state=(3, "x", None, None, None, -1, -1, 0)), False, EIGHT)), "plain"),
    "void": (array((1, (1,), dtype("V8"), False, EIGHT)), "of type 'V8'"),
    "text": (array((1, (1,), dtype("U2"), False, EIGHT)), "of type 'U2'"),
    "record": (array((1, (1,), dtype("f8,f8"), False, EIGHT)), "of type 'f8,f8'"),
    "objects as bytes": (array((1, (1,), dtype("O8"), False, EIGHT)), "other objects than its shape"),
    "too few objects": (array((1, (3,), dtype("O8"), False, [1, 2])), "other objects than its shape"),
    "too few bytes": (array((1, (2,), dtype(), False, EIGHT)), "other bytes than its shape"),
    "too many bytes": (array((1, (1,), dtype(), False, 2 * EIGHT)), "other bytes than its shape"),
    "numbers as list": (array((1, (1,), dtype(), False, [1.0])), "other bytes than its shape"),
    "huge shape": (array((1, (2**40, 2**40), dtype(), False, EIGHT)), "other bytes than its shape"),
    "huge empty shape": (array((1, (0, 2**70), dtype(), False, b"")), "damaged"),
    "negative shape": (array((1, (-1,), dtype(), False, EIGHT)), r"of shape \(-1,\)"),
    "shape of text": (array((1, ("1",), dtype(), False, EIGHT)), "of shape"),
    "many dimensions": (array((1, (1,) * 100, dtype(), False, EIGHT)), "of shape"),
    "no type": (array((1, (1,), "f8", False, EIGHT)), "without shape, type and values"),
    "short state": (array((1, (1,))), "without shape, type and values"),
    "class of its own": (array((1, (1,), dtype(), False, EIGHT), kind=np.dtype), "class of its own"),
    "scalar without a type": (Reduced(SCALAR, ("f8", EIGHT)), "a number without a type"),
    "scalar of objects": (Reduced(SCALAR, (dtype("O8"), EIGHT)), "a number without a type"),
    "short scalar": (Reduced(SCALAR, (dtype(), b"1")), "other bytes than its shape"),
    "buffer that is too short": (Reduced(FROM_BUFFER, (EIGHT, dtype(), (2,), "C")), "other bytes than its shape"),
    "buffer of objects": (Reduced(FROM_BUFFER, (EIGHT, dtype("O8"), (1,), "C")), "an array without a type"),
    "buffer of no type": (Reduced(FROM_BUFFER, (EIGHT, "f8", (1,), "C")), "an array without a type"),
    "buffer of a huge shape": (Reduced(FROM_BUFFER, (EIGHT, dtype(), (2**40, 2**40), "C")), "other bytes than its shape"),
    "buffer of a negative shape": (Reduced(FROM_BUFFER, (EIGHT, dtype(), (-1,), "C")), r"of shape \(-1,\)"),
    "buffer in an order that there is not": (Reduced(FROM_BUFFER, (EIGHT, dtype(), (1,), "A")), "in the order 'A'"),
    "buffer with wrong axes": (Reduced(FROM_BUFFER, (EIGHT, dtype(), (1, 1), "K", (0, 0))), r"axes \(0, 0\)"),
    "buffer outside of the file": (b"\x80\x05\x97.", "buffer"),
    "huge array of bytes": (b"\x80\x05\x96\xff\xff\xff\xff\x00\x00\x00\x00abc.", "ends within an array|memory"),
    "type alone": ([dtype()], "no array"),
    "key of a dictionary": (b"\x80\x02}cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87RNs.", "unhashable"),
    "function that is changed": (b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aNsb.", "damaged|changes what it names"),
    "function with another slot": (b"\x80\x02cnumpy\ndtype\nN}X\x09\x00\x00\x00_functionNs\x86b.", "changes what it names"),
    "huge index": (b"\x80\x02]r\xff\xff\xff\x7f0j\xfe\xff\xff\x7f.", "damaged|Memo"),
    "huge text": (b"\x80\x02T\xff\xff\xff\x7fabc", "damaged|truncated"),
    "nothing on the stack": (b"\x80\x02R.", "damaged"),
    "unknown operation": (b"\x80\x02\xfe.", "damaged"),
    "too deep": (b"\x80\x02" + b"(" * 5000 + b"t" * 5000 + b".", "damaged|recursion"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_together_is_refused(content, message, tmp_path):
    with pytest.raises(pickle.UnpicklingError, match=message):
        load(content, tmp_path)
    # What was named is as it was.
    np.testing.assert_array_equal(load(np.arange(3.0), tmp_path), [0, 1, 2])


LOAD = """
import resource, sys
from cmssl_hf.dataset_builders.ppg_dalia.numpy_pickle import load_numpy_pickle
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, resource.RLIM_INFINITY))
for path in sys.argv[1:]:
    try:
        load_numpy_pickle(path)
    except Exception as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of memory")
def test_damaged_state_of_a_type_that_crashed_numpy(tmp_path):
    """A damaged copy whose rebuilding ended the process, and others like it: damaged within the types of their arrays."""
    whole = write_dalia_subject(tmp_path, 3, dalia_content(3, seconds=20)).read_bytes()
    (tmp_path / "0.pkl").write_bytes(mutate_as_the_reader_tests(whole, 6200))
    starts = [position for opcode, value, position in pickletools.genops(whole) if value == "numpy dtype"]
    assert starts
    for number in range(1, 40):
        rng = np.random.default_rng(number)
        first = starts[number % len(starts)]
        damaged = whole[:first] + mutate(whole[first : first + 60], rng) + whole[first + 60 :]
        (tmp_path / f"{number}.pkl").write_bytes(damaged)
    paths = [str(tmp_path / f"{number}.pkl") for number in range(40)]
    process = subprocess.run(
        [sys.executable, "-c", LOAD, *paths], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert set(process.stdout.split()) <= {"UnpicklingError", "EOFError", "MemoryError"}


def mutate_as_the_reader_tests(whole, number):
    rng = np.random.default_rng(number)
    rng.integers(0, 1)  # which file is damaged
    return mutate(whole, rng)


def test_real_recordings(test_data):
    paths = sorted((test_data / "ppg_dalia").rglob("S*.pkl"))
    assert paths
    for path in paths[:2]:
        with path.open("rb") as file:
            expected = pickle.load(file, encoding="latin1")
        read = load_numpy_pickle(path)
        for place in (("signal", "chest", "ECG"), ("signal", "wrist", "BVP"), ("label",), ("activity",), ("rpeaks",)):
            wanted, found = expected, read
            for key in place:
                wanted, found = wanted[key], found[key]
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
        assert read["questionnaire"] == expected["questionnaire"]
