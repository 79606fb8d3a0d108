"""Whole files that are refused: what is no Torch7 file, what is cut short, and paths that cannot be read."""

import lzma
import os
from pathlib import Path

import pytest

from conversion import t7
from conversion.t7.objects import Source
from tests.conversion.t7.t7_writer import ENCODINGS, TABLE, TORCH, AsciiWriter, Writer, refusal

FIXTURES = Path(__file__).parents[2] / "fixtures"
W, A = Writer(), AsciiWriter()

FOREIGN = {
    "a PNG image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a JPEG image": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "a zip archive (PyTorch's .pth": b"PK\x03\x04\0\0\0\0",
    "a Python pickle (an old PyTorch .pth file?)": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    "a Python pickle": b"\x80\x04\x95\x05\0\0\0\0\0\0\0",
    "a gzip archive; unpack it first": b"\x1f\x8b\x08\0\0\0\0\0",
    "an xz archive; unpack it first": b"\xfd7zXZ\0\0\x04",
    "a bzip2 archive; unpack it first": b"BZh91AY&SY",
    "a Zstandard archive; unpack it first": b"\x28\xb5\x2f\xfd\x04\x58",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "a numpy array": b"\x93NUMPY\x01\0",
    "a Git LFS pointer; fetch the file itself": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "an HTML or XML page": b"<!DOCTYPE html><title>404</title>",
    "an HTML or XML page (a failed download?)": b"\xef\xbb\xbf \r\n<html>",
    "a JSON text": b'\n{"a": 1}',
    "a safetensors file": (64).to_bytes(8, "little") + b'{"__metadata__":{}}',
    "nothing known, starts with b'hello wo'": b"hello world",
    "nothing known, starts with b'\\t\\x00\\x00\\x00": W.int(9) + bytes(60),
    "nothing known, starts with b'9\\n1'": b"9\n1",
    "nothing known, starts with b'\\x03\\x00\\x00'": b"\3\0\0",
    "nothing known, starts with b'3'": b"3",
    "nothing known, starts with b' '": b" ",
}


@pytest.mark.parametrize("looks", FOREIGN)
def test_other_files_are_named(tmp_path, looks):
    error = refusal(tmp_path, FOREIGN[looks])
    assert (error.offset, error.object_path) == (0, "")
    assert error.cause.startswith(f"not a Torch7 file: looks like {looks}")


def test_an_empty_file_is_refused(tmp_path):
    error = refusal(tmp_path, b"")
    assert (error.offset, error.cause) == (0, "not a Torch7 file: it is empty")


SMALL = sorted(path for path in (FIXTURES / "variants").glob("*.t7") if path.stat().st_size < 800)


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_cut_anywhere_a_file_is_refused(tmp_path, path):
    data = path.read_bytes()
    for size in range(len(data)):
        refusal(tmp_path, data[:size])


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_with_anything_behind_it_a_file_is_refused(tmp_path, path):
    data = path.read_bytes()
    for rest in (b"\0", b"\n", data):
        error = refusal(tmp_path, data + rest)
        assert error.offset == len(data)
        assert error.cause == f"{len(rest)} bytes are left after the root object; expected none"


def test_cut_in_its_last_storage_a_model_is_refused_at_that_storage(tmp_path):
    data = lzma.decompress((FIXTURES / "models" / "cifar100_resnet11.t7.xz").read_bytes())
    error = refusal(tmp_path, data[:-200])
    assert error.object_path.endswith(".<storage>")
    assert error.cause.startswith("truncated or damaged: a storage of ")
    assert error.cause.endswith(f" bytes, {len(data) - 200 - error.offset - 8} are left")


def test_a_file_that_is_cut_short_meanwhile_is_refused(tmp_path, monkeypatch):
    identify = Source.identify
    monkeypatch.setattr(Source, "identify", lambda status: (status.st_size + 9, *identify(status)[1:]))
    path = tmp_path / "file.t7"
    path.write_bytes(W.string("abc")[:-1])
    with pytest.raises(t7.T7Error, match="byte 4: the file was cut short while it was read"):
        t7.load(path)


def test_a_storage_that_lacks_4_bytes_is_not_taken_for_one_of_4_byte_longs(tmp_path):
    error = refusal(tmp_path, W.storage(1, "Float", [1, 2, 3])[:-4])
    assert "a storage of 3 values needs 12 bytes, 8 are left" in error.cause


@pytest.mark.parametrize("long_size", [4, 8])
def test_of_the_two_sizes_of_a_long_the_error_is_of_the_one_that_got_further(tmp_path, long_size):
    w = Writer("<", long_size)
    head = w.ref(TABLE, 1) + w.int(2) + w.number(1) + w.vector(2, "Float", [1, 2]) + w.number(2) + w.int(5)
    error = refusal(tmp_path, head + w.int(7) + bytes(500))
    assert (error.offset, error.object_path) == (len(head), "[2]")
    assert error.cause == "expected a boolean (0 or 1), got 7"
    # the fault lies before the place where the other reading stops, but was found behind it
    head = w.ref(TORCH, 1) + w.text("V 1") + w.text("torch.FloatTensor") + w.int(1) + w.long(2) + w.long(1)
    error = refusal(tmp_path, head + w.long(0) + w.storage(2, "Float", [1, 2]))
    assert (error.offset, error.cause) == (len(head), "storage offset 0; it counts from 1")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_object_path_leads_to_the_fault(tmp_path, encoding):
    w = ENCODINGS[encoding]
    head = w.ref(TORCH, 1) + w.text("V 1") + w.text("nn.Sequential") + w.ref(TABLE, 2) + w.int(1)
    head += w.string("modules") + w.ref(TABLE, 3) + w.int(2) + w.number(4) + w.vector(4, "Float", [1]) + w.number(5)
    head += w.ref(TORCH, 6) + w.text("V 1") + w.text("nn.ConcatTable") + w.ref(TABLE, 7) + w.int(1)
    head += w.string("modules") + w.ref(TABLE, 8) + w.int(1) + w.number(1)
    head += w.ref(TORCH, 9) + w.text("V 1") + w.text("nn.Linear") + w.ref(TABLE, 10) + w.int(1) + w.string("weight")
    tensor = w.ref(TORCH, 11) + w.text("V 1") + w.text("torch.FloatTensor") + w.int(1) + w.long(3) + w.long(1)
    bad_offset = w.long(0) + w.storage(12, "Float", [1, 2, 3])
    error = refusal(tmp_path, head + tensor + bad_offset)
    assert (error.offset, error.object_path) == (len(head + tensor), "modules[5].modules[1].weight")
    bad_storage = w.long(1) + w.ref(TORCH, 12) + w.text("V 1") + w.text("torch.FloatStorage")
    error = refusal(tmp_path, head + tensor + bad_storage + w.long(-3))
    assert error.offset == len(head + tensor + bad_storage)
    assert error.object_path == "modules[5].modules[1].weight.<storage>"


ASCII_FAULTS = {
    "no number": (A.int(1), b"one\n", "expected a number, got b'one\\n'"),
    "grouped digits": (A.int(1), b"1_0\n", "expected a number, got b'1_0\\n'"),
    "no int": (A.int(5), b"1.0\n", "expected an int, got b'1.0\\n'"),
    "no newline": (A.int(1), b"1" * 100, "expected a number and a newline, got b'111111"),
    "no newline after a string": (A.int(2), b"3\nabc2", "expected a newline after a string"),
    "too few sizes": (
        A.ref(TORCH, 1) + A.text("torch.ByteTensor") + A.int(2),
        b"3\n1 1\n1\n0\n",
        "expected 2 longs, got 1",
    ),
    "sizes that are no numbers": (
        A.ref(TORCH, 1) + A.text("torch.ByteTensor") + A.int(2),
        b"3 x\n1 1\n1\n0\n",
        "expected a long, got b'x'",
    ),
    "fewer bytes than values": (
        A.ref(TORCH, 1) + A.text("torch.IntStorage"),
        b"3\n7 7 7",
        "a storage of 3 values needs 6 bytes, 5 are left",
    ),
    "too few values": (
        A.ref(TORCH, 1) + A.text("torch.IntStorage"),
        b"3\n70 700\n",
        "a storage of 3 values holds 2",
    ),
    "too many values": (
        A.ref(TORCH, 1) + A.text("torch.IntStorage"),
        b"3\n7 7 7 7\n",
        "a storage of 3 values holds 4",
    ),
    "values that do not end": (
        A.ref(TORCH, 1) + A.text("torch.IntStorage"),
        b"3\n70 70 70",
        "truncated: the values of the storage do not end in a newline",
    ),
    "a value that does not end": (
        A.ref(TORCH, 1) + A.text("torch.IntStorage"),
        b"1\n" + b"7" * 50,
        "truncated: the values of the storage do not end in a newline",
    ),
    "bytes that do not end": (
        A.ref(TORCH, 1) + A.text("torch.ByteStorage"),
        b"3\nabcd\n",
        "expected a newline after a storage of 3 values",
    ),
}


@pytest.mark.parametrize("name", ASCII_FAULTS)
def test_ascii_is_refused_at_its_place(tmp_path, name):
    before, fault, cause = ASCII_FAULTS[name]
    error = refusal(tmp_path, before + fault)
    assert (error.offset, error.object_path) == (len(before), "")
    assert cause in error.cause


@pytest.mark.parametrize("encode", [str, os.fsencode, Path], ids=["str", "bytes", "Path"])
def test_a_path_of_every_kind_is_read(tmp_path, encode):
    path = tmp_path / "ünïcode.t7"
    path.write_bytes(W.number(3))
    assert t7.load(encode(str(path))) == 3


UNREADABLE = {
    "missing": "cannot be read: No such file or directory",
    "folder": "expected a file, got a directory or a device",
    "pipe": "expected a file, got a directory or a device",
    "/dev/zero": "expected a file, got a directory or a device",
    "file/below": "cannot be read: Not a directory",
    "loop": "cannot be read: Too many levels of symbolic links",
    "x" * 5000: "cannot be read: File name too long",
    "a\0b": "not a path: embedded null byte",
    "\ud800": "not a path: 'utf-8' codec can't encode",
}


@pytest.mark.parametrize("name", UNREADABLE, ids=lambda name: ascii(name[:20]))
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    path = str(tmp_path / name)
    with pytest.raises(t7.T7Error) as caught:
        t7.load(path)
    error = caught.value
    assert error.path in (path, repr(path))
    assert (error.offset, error.object_path) == (None, "")
    assert error.cause.startswith(UNREADABLE[name])
    assert str(error) == f"{error.path}: {error.cause}"
