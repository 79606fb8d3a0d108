"""Convert a Torch7 ResNeXt checkpoint into weights for PyTorch, with a proof that they are right.

    python conversion/build_weights.py --t7 resnext_50_32x4d.t7 --out weights
    python conversion/build_weights.py --sample

Writes <arch>_typeC-<first 8 hex of SHA-256>.pth and a .json beside it that says where it came from. Exit status:
0 done; 1 the proof failed, nothing was written; 2 bad usage or input, nothing was written.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import lzma
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(ROOT)

SAMPLE = ROOT / "conversion" / "sample" / "cifar10_resnext11_4x8d_C_nested.t7.xz"
OFFICIAL_URL = "https://dl.fbaipublicfiles.com/resnext/imagenet_models/"
OFFICIAL = {"resnext_50_32x4d.t7", "resnext_101_32x4d.t7", "resnext_101_64x4d.t7"}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with _source(options) as (path, license_):
            return _build(path, license_, options)
    except (_RefusedError, OSError) as error:
        return _fail(f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


class _RefusedError(Exception):
    """What the user asked for cannot be done; the message says why, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SystemExit(_fail(f"{message} (see --help)"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--t7", type=Path, metavar="FILE", help="the Torch7 checkpoint to convert")
    source.add_argument("--sample", action="store_true", help="convert the small genuine checkpoint that comes along")
    parser.add_argument("--out", type=Path, default=Path("weights"), metavar="DIR", help="default: ./weights")
    parser.add_argument(
        "--arch", metavar="NAME", help="what the checkpoint must be, e.g. resnext50_32x4d; else an error"
    )
    parser.add_argument("--format", choices=("pth", "safetensors"), default="pth", help="default: pth")
    parser.add_argument("--no-verify", action="store_true", help="leave out the proof (the sidecar will say so)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")
    return parser


def _fail(message: object, status: int = 2) -> int:
    print(f"build_weights: {' '.join(str(message).split())}", file=sys.stderr)
    return status


@contextlib.contextmanager
def _source(options: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """The file to convert, and the licence of the weights in it."""
    if options.t7 is not None:
        official = options.t7.name in OFFICIAL
        yield options.t7, "CC BY-NC 4.0" if official else "not stated in the file: that of the source checkpoint"
    elif options.sample:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / SAMPLE.stem
            path.write_bytes(lzma.decompress(SAMPLE.read_bytes()))
            yield path, "BSD-3-Clause (random weights)"
    else:
        name = "resnext_50_32x4d.t7"
        raise _RefusedError(
            f"the official ResNeXt-50 is meant, and downloading it is not built in yet: fetch {OFFICIAL_URL}{name} "
            f"and give it with --t7 {name}; or try --sample"
        )


def _build(path: Path, license_: str, options: argparse.Namespace) -> int:
    started = time.perf_counter()
    # The digest of the source needs no more than one core and the standard library: it runs beside the import of torch.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        source_digest = pool.submit(_sha256, path)
        try:
            from conversion import artifact, mapping, t7, verify
            from resnext.zoo import parse_name

            expected = parse_name(options.arch)[0] if options.arch else None
            conversion = mapping.convert(t7.load(path), _bar("reading"))
        except ValueError as error:  # T7Error is one
            raise _RefusedError(error) from None
        except ImportError as error:
            raise _RefusedError(f"{error}: pip install -r requirements.txt") from None
        if expected not in (None, conversion.architecture.name):
            raise _RefusedError(f"{path}: expected {expected} (--arch), got {conversion.architecture.name}")
        proof = None if options.no_verify else _prove(verify, conversion)
        if proof is not None and not proof.passed:
            print(proof.table(), file=sys.stderr)
            return _fail(f"{path}: the proof failed, nothing is written: {proof.reason}", 1)
        source = artifact.SourceFile(path.name, path.stat().st_size, source_digest.result(), license_)
    record = artifact.make_record(conversion, source, proof)
    written = artifact.write_artifact(conversion.state_dict, record, options.out, options.format)
    if options.json:
        print(json.dumps(_summary(written)))
    else:
        print(_table(written, proof, time.perf_counter() - started))
    return 0


def _prove(verify: Any, conversion: Any) -> Any:
    try:
        return verify.verify(conversion, _bar("proving"))
    except ValueError as error:
        raise _RefusedError(error) from None


def _bar(what: str) -> Any:
    """A progress bar for loops, on a terminal alone."""

    def wrap(items: list[Any]) -> Iterable[Any]:
        if not sys.stderr.isatty():
            return items
        from tqdm import tqdm

        return tqdm(items, desc=what, leave=False)

    return wrap


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _summary(written: Any) -> dict[str, Any]:
    record = written.record
    return {
        "path": str(written.path),
        "sidecar": str(written.sidecar),
        "sha256": record["file"]["sha256"],
        "size": record["file"]["size"],
        "arch": record["arch"],
        "form": record["form"],
        "tensor_digest": record["tensor_digest"],
        "verification": record["proof"],
        "source": record["source"],
        "license": record["license"],
    }


def _table(written: Any, proof: Any, seconds: float) -> str:
    record = written.record
    source, file, architecture = record["source"], record["file"], record["architecture"]
    notes = "; ".join(source["notes"]) or "every tensor taken over as it stands"
    rows = {
        "source": f"{source['name']}, {source['size']:,} bytes, sha256 {source['sha256']}",
        "network": f"{record['arch']} (form {source['form']} in the file), {architecture['num_classes']} classes, "
        f"{architecture['parameters']:,} parameters",
        "conversion": notes,
        "weights": f"{written.path}, {file['size']:,} bytes",
        "sha256": file["sha256"],
        "tensor digest": record["tensor_digest"],
        "licence": record["license"],
        "sidecar": str(written.sidecar),
        "time": f"{seconds:.1f} s",
    }
    lines = [f"{name:<14}{value}" for name, value in rows.items()]
    proof_lines = proof.table() if proof else "not proved (--no-verify)"
    return "\n".join([*lines, "", proof_lines])


if __name__ == "__main__":
    sys.exit(main())
