"""Values are read when they are asked for; the arrays are the caller's own, and share what the file shares."""

import os
from pathlib import Path

import numpy as np
import pytest

from conversion import t7
from conversion.t7.objects import Source
from tests.conversion.t7.t7_writer import ENCODINGS, TABLE, TORCH, AsciiWriter, Writer, read, write

VARIANTS = Path(__file__).parents[2] / "fixtures" / "variants"
W, A = Writer(), AsciiWriter()


@pytest.fixture
def reads(monkeypatch):
    """(offset, bytes) of each read of values."""
    done = []
    read_values = Source.read

    def record(self, offset, buffer):
        done.append((offset, buffer.nbytes))
        read_values(self, offset, buffer)

    monkeypatch.setattr(Source, "read", record)
    return done


def test_only_what_is_asked_for_is_read(reads):
    conv = t7.load(VARIANTS / "s_plain.t7")["modules"][1]
    assert reads == []
    conv["weight"].numpy()
    assert reads == [(conv["weight"].storage.offset, 72 * 4)]
    raw = (VARIANTS / "s_plain.t7").read_bytes()
    assert raw[reads[0][0] - 8 : reads[0][0]] == W.long(72)


def test_a_copy_reads_no_more_than_the_tensor_covers(reads):
    root = t7.load(VARIANTS / "views.t7")
    storage = root["base"].storage
    assert root["sel"].copy().tolist() == [2, 6, 10]
    assert root["nar"].copy().tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert reads == [(storage.offset + 4, 9 * 4), (storage.offset + 16, 8 * 4)]


def test_an_empty_tensor_reads_nothing(reads, tmp_path):
    root = read(tmp_path, W.tensor(1, "Float", [0, 2], [2, 1], W.storage(2, "Float", [1, 2])))
    assert root.numpy().shape == root.copy().shape == (0, 2)
    assert reads == []


def test_gradients_of_gigabytes_cost_nothing(tmp_path):
    head = W.ref(TABLE, 1) + W.int(2) + W.string("gradWeight")
    head += W.tensor(2, "Float", [2**32], [1], b"") + W.ref(TORCH, 3) + W.text("V 1") + W.text("torch.FloatStorage")
    path = write(tmp_path, head + W.long(2**32))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 2**34)  # a hole of 16 GiB
        file.seek(0, os.SEEK_END)
        file.write(W.string("weight") + W.vector(4, "Float", [1, 2]))
    root = t7.load(path)
    assert root["gradWeight"].shape == (2**32,)
    assert root["weight"].numpy().tolist() == [1, 2]


@pytest.mark.parametrize("shift", range(8))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_arrays_are_aligned_native_and_writable(tmp_path, encoding, shift):
    w = ENCODINGS[encoding]
    tensors = w.vector(2, "Long", [1, 2, 3]), w.vector(4, "Float", [1, 2])
    path = write(tmp_path, w.table(1, w.string("x" * shift), *tensors))
    root = t7.load(path)
    before = path.read_bytes()
    for array in (root[2].numpy(), root[2].copy(), root[3].numpy(), root[3].copy()):
        assert array.flags.aligned
        assert array.dtype.isnative
        assert array.flags.writeable
        array += 10
    del array
    assert path.read_bytes() == before
    assert root[2].numpy().tolist() == [1, 2, 3]


def test_views_of_a_storage_share_memory():
    root = t7.load(VARIANTS / "views.t7")
    base, transposed, selected, narrowed = (root[key].numpy() for key in ("base", "t", "sel", "nar"))
    assert all(np.shares_memory(base, view) for view in (transposed, selected, narrowed))
    assert not np.shares_memory(selected, base[0, :1])
    assert np.shares_memory(base, root["base"].storage.numpy())
    base[1, 1] = 60
    assert (transposed[1, 1], selected[1], narrowed[0, 1]) == (60, 60, 60)
    assert root["nar"].numpy()[0, 1] == 60


def test_a_view_alone_keeps_the_memory_that_is_shared():
    root = t7.load(VARIANTS / "views.t7")
    root["sel"].numpy()[0] = 20
    assert root["base"].numpy()[0, 1] == 2  # nothing was left that shared it
    view = root["sel"].numpy()
    view[0] = 20
    assert root["base"].numpy()[0, 1] == 20


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_shared_storage_is_shared_in_every_encoding(tmp_path, encoding):
    w = ENCODINGS[encoding]
    first = w.tensor(2, "Double", [2], [1], w.storage(3, "Double", [1, 2, 3]))
    root = read(tmp_path, w.table(1, first, w.tensor(4, "Double", [2], [1], w.ref(TORCH, 3), offset=2)))
    one, other = root[1].numpy(), root[2].numpy()
    one[1] = 20
    assert other.tolist() == [20, 3]


def test_copies_share_nothing_and_are_contiguous():
    root = t7.load(VARIANTS / "views.t7")
    shared = root["t"].numpy()
    for key in root:
        copy = root[key].copy()
        assert copy.flags.c_contiguous
        assert not np.shares_memory(copy, shared)
        assert not np.shares_memory(copy, root[key].copy())
        assert copy.tolist() == root[key].numpy().tolist()


def test_an_expanded_view_is_not_copied_by_numpy():
    root = t7.load(VARIANTS / "views.t7")
    array = root["exp"].numpy()
    assert array.strides == (0,)
    assert root["exp"].copy().strides == (4,)


def expanded(tmp_path, *sizes):
    """A list of expanded views over one storage of one value, and last a plain tensor over it."""
    views = [W.tensor(2, "Float", [sizes[0]], [0], W.storage(3, "Float", [7]))]
    views += [W.tensor(4 + i, "Float", [size, 1], [0, 5], W.ref(TORCH, 3)) for i, size in enumerate(sizes[1:])]
    plain = W.tensor(3 + len(sizes), "Float", [1], [1], W.ref(TORCH, 3))
    return read(tmp_path, W.table(1, *views, plain)).as_list()


@pytest.mark.parametrize("method", ["numpy", "copy"])
def test_the_size_of_expanded_views_is_limited_for_all_of_a_file(tmp_path, method):
    within = expanded(tmp_path, *[2**21] * 16)  # 128 MiB in all, less the values that are stored
    assert getattr(within[0], method)().shape == (2**21,)
    *views, plain = expanded(tmp_path, *[2**21] * 16, 100)
    assert getattr(plain, method)().tolist() == [7]
    for index in (0, 16):
        with pytest.raises(
            t7.T7Error, match=r"expanded view of shape .* at most 134217728 bytes .* in a file"
        ) as caught:
            getattr(views[index], method)()
        assert caught.value.path == str(tmp_path / "file.t7")
        assert caught.value.object_path == f"[{index + 1}]"


def test_a_tensor_of_more_than_that_is_read_if_the_file_holds_it(tmp_path):
    size = 2**27 + 1
    tensor = W.tensor(1, "Byte", [size], [1], W.ref(TORCH, 2) + W.text("V 1") + W.text("torch.ByteStorage"))
    path = write(tmp_path, tensor + W.long(size))
    os.truncate(path, path.stat().st_size + size)
    assert t7.load(path).numpy().shape == (size,)


def rewrite(path):
    path.write_bytes(path.read_bytes()[::-1])


def touch(path):
    os.utime(path, ns=(0, 0))


def replace(path):
    status = path.stat()
    path.with_suffix(".new").write_bytes(path.read_bytes())
    os.utime(path.with_suffix(".new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [touch, replace, rewrite])
@pytest.mark.parametrize("method", ["numpy", "copy"])
def test_a_file_that_has_changed_is_refused(tmp_path, change, method):
    path = write(tmp_path, W.table(1, W.vector(2, "Float", [1, 2])))
    os.utime(path, ns=(10**18, 10**18))
    tensor = t7.load(path)[1]
    assert getattr(tensor, method)().tolist() == [1, 2]
    change(path)
    with pytest.raises(t7.T7Error, match="has changed since it was loaded; load it again") as caught:
        getattr(tensor, method)()
    error = caught.value
    assert (error.path, error.offset, error.object_path) == (str(path), tensor.storage.offset, "[1].<storage>")


def test_a_file_that_is_cut_short_or_gone_is_refused(tmp_path):
    path = write(tmp_path, W.table(1, W.vector(2, "Float", [1, 2])))
    tensor = t7.load(path)[1]
    os.truncate(path, 20)
    with pytest.raises(t7.T7Error, match="has changed"):
        tensor.numpy()
    path.unlink()
    with pytest.raises(t7.T7Error, match="cannot be read any more: No such file") as caught:
        tensor.numpy()
    assert (caught.value.path, caught.value.object_path) == (str(path), "[1].<storage>")


def test_nothing_stays_mapped_or_open(tmp_path):
    path = write(tmp_path, W.table(1, W.vector(2, "Double", range(5000))))
    root = t7.load(path)
    array = root[1].numpy()
    if Path("/proc/self/fd").exists():
        links = Path("/proc/self/fd").glob("*")
        assert str(path) not in [os.readlink(link) for link in links if link.is_symlink()]
    os.truncate(path, 0)  # an array that was a map of the file would now crash the process
    assert array.sum() == 12_497_500


def test_values_are_found_from_another_working_directory(tmp_path, monkeypatch):
    write(tmp_path, W.vector(1, "Float", [1, 2]))
    monkeypatch.chdir(tmp_path)
    tensor = t7.load("file.t7")
    monkeypatch.chdir("/")
    assert tensor.numpy().tolist() == [1, 2]


ASCII_VALUES = {
    "word": ("Float", b"1 x"),
    "empty word": ("Float", b"10  20"),
    "grouped digits": ("Double", b"1 1_0"),
    "fraction": ("Int", b"1 1.5"),
    "more than a short": ("Short", b"1 40000"),
    "more than a half": ("Half", b"1 1e30"),
    "more than a float": ("Float", b"1 1e300"),
    "more than a long": ("Long", b"1 99999999999999999999"),
}


@pytest.mark.parametrize("name", ASCII_VALUES)
@pytest.mark.filterwarnings("error")
def test_ascii_values_that_are_no_numbers_are_refused(tmp_path, name):
    kind, words = ASCII_VALUES[name]
    count = words.count(b" ") + 1
    head = A.ref(TABLE, 1) + A.int(1) + A.string("x") + A.ref(TORCH, 2) + A.text("V 1") + A.text(f"torch.{kind}Storage")
    storage = read(tmp_path, head + A.long(count) + words + b"\n")["x"]
    with pytest.raises(t7.T7Error, match="a value is not a number") as caught:
        storage.numpy()
    error = caught.value
    place = (str(tmp_path / "file.t7"), len(head) + 2, "x")
    assert (error.path, error.offset, error.object_path) == place


@pytest.mark.parametrize(("order", "long_size", "kind"), [(">", 8, "Short"), (">", 4, "Long"), ("<", 4, "Long")])
def test_values_that_are_converted_are_read_across_chunks(tmp_path, order, long_size, kind):
    w, values = Writer(order, long_size), np.arange(2**20 + 5) % 30_000  # read in pieces of 2^20
    last = w.tensor(4, kind, [2], [3], w.ref(TORCH, 3), offset=2**20 - 2)
    root = read(tmp_path, w.table(1, w.vector(2, kind, values), last))
    assert np.array_equal(root[1].numpy(), values)
    assert root[2].copy().tolist() == values[[2**20 - 3, 2**20]].tolist()


def test_ascii_values_are_read_across_chunks(tmp_path):
    values = np.arange(400_000)  # 2.7 MB of text, read in pieces of 1 MiB
    root = read(
        tmp_path, A.table(1, A.vector(2, "Int", values), A.tensor(4, "Int", [2], [3], A.ref(TORCH, 3), offset=399_990))
    )
    assert np.array_equal(root[1].numpy(), values)
    assert root[2].copy().tolist() == [399_989, 399_992]
