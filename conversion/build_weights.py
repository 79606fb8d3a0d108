"""Convert Torch7 ResNeXt checkpoints into weights for PyTorch, with a proof that they are right.

    python conversion/build_weights.py                        the authors' ResNeXt-50, downloaded
    python conversion/build_weights.py --arch resnext101_32x4d
    python conversion/build_weights.py --t7 my_checkpoint.t7
    python conversion/build_weights.py --sample               a small genuine checkpoint that comes along

Writes <arch>_type<form>-<first 8 hex of SHA-256>.pth and a .json beside it that says where it came from. Exit status:
0 done; 1 the proof failed, nothing was written; 2 bad usage or input, nothing was written.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import lzma
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # run as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(ROOT)

_UNKNOWN_LICENSE = "not stated in the file: that of the source checkpoint"
SAMPLE = ROOT / "conversion" / "sample" / "cifar10_resnext11_4x8d_C_nested.t7.xz"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        options = _parser().parse_args(arguments)
        with _uncollected():
            from conversion.build import ProofError
        try:
            _run(options)
        except ProofError as error:
            print(error.proof.table(), file=sys.stderr)
            return _fail(error, 1)
        sys.stdout.flush()
    except ImportError as error:
        return _fail(f"{error}: pip install -r requirements.txt")
    except (ValueError, RuntimeError) as error:  # T7Error is a ValueError, DownloadError and WeightsError the other
        return _fail(error)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SystemExit(_fail(f"{message} (see --help)"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--t7", type=Path, metavar="FILE", help="a Torch7 checkpoint on this machine")
    source.add_argument("--sample", action="store_true", help="the small genuine checkpoint that comes along")
    source.add_argument("--all", action="store_true", help="every network that the authors published, downloaded")
    parser.add_argument(
        "--arch",
        metavar="NAME",
        help="which published network to download (default: resnext50_32x4d); with --t7 or --sample, what it must be",
    )
    parser.add_argument("--out", type=Path, default=Path("weights"), metavar="DIR", help="default: ./weights")
    parser.add_argument(
        "--form", choices=("A", "B", "C"), help="of the paper's figure 3; default: that of --arch, or C"
    )
    parser.add_argument("--format", choices=("pth", "safetensors"), default="pth", help="default: pth")
    parser.add_argument("--no-verify", action="store_true", help="leave out the proof (the sidecar will say so)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each network, no summary")
    parser.add_argument(
        "--publish",
        metavar="BASE_URL",
        help="enter what is built into resnext/weights.json, as to be found under this URL once you have uploaded it",
    )
    return parser


def _fail(message: object, status: int = 2) -> int:
    print(f"build_weights: {' '.join(str(message).split())}", file=sys.stderr)
    return status


def _run(options: argparse.Namespace) -> None:
    from resnext.weights.download import check_url
    from resnext.zoo import parse_name

    arch, form = parse_name(options.arch) if options.arch else (None, None)
    if options.form and form and options.form != form:
        raise ValueError(f"--arch {options.arch} and --form {options.form} contradict each other")
    options.form = options.form or form or "C"
    for option, value in (
        ("--no-verify", options.no_verify),
        ("--format safetensors", options.format != "pth"),
        (f"form {options.form}", options.form != "C"),
    ):
        if options.publish and value:
            raise ValueError(
                f"--publish and {option} contradict each other: what is published is a proved .pth, form C"
            )
    if options.all and options.arch:
        raise ValueError("--all and --arch contradict each other")
    if options.publish:
        check_url(options.publish)
        source = "--sample" if options.sample else options.t7 and options.t7.name
        if source and source not in _licenses():
            raise ValueError(f"--publish and {source} contradict each other: records are of {', '.join(_licenses())}")
    if options.t7 is not None:
        _build(options.t7, arch, _licenses().get(options.t7.name, _UNKNOWN_LICENSE), options)
    elif options.sample:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / SAMPLE.stem
            path.write_bytes(lzma.decompress(SAMPLE.read_bytes()))
            _build(path, arch, "BSD-3-Clause (random weights)", options)
    else:
        _build_official(arch, options)


def _build_official(arch: str | None, options: argparse.Namespace) -> None:
    from resnext.weights.cache import locked
    from resnext.weights.pretrained import torch7_file
    from resnext.weights.records import get_record, records

    names = list(records()) if options.all else [arch or "resnext50_32x4d"]
    for record in [get_record(name) for name in names]:
        with locked(record.architecture), torch7_file(record, progress=sys.stderr.isatty()) as (path, sha256):
            _build(path, record.architecture, record.license, options, sha256)


def _licenses() -> dict[str, str]:
    """The authors' files and the licence of the weights in them."""
    from resnext.weights.records import records

    return {record.torch7.file: record.license for record in records().values()}


def _build(path: Path, arch: str | None, license_: str, options: argparse.Namespace, sha256: str | None = None) -> None:
    from conversion.build import build

    started = time.perf_counter()
    built = build(
        path,
        options.out,
        license_=license_,
        sha256=sha256,
        expected=arch,
        form=options.form,
        file_format=options.format,
        prove=not options.no_verify,
    )
    url = None
    if options.publish:
        from conversion.publish import publish

        url = publish(built.artifact, options.publish)
    if options.json:
        print(json.dumps(_summary(built.artifact, url)))
    else:
        print(_table(built, url, time.perf_counter() - started))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """For imports, in a process that is this script's own: the garbage collector leaves alone what they make.

    It would go through the objects of torch many times during the import and again at the exit, to no end: a quarter
    of the whole time.
    """
    if __name__ != "__main__":
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _summary(written: Any, url: str | None) -> dict[str, Any]:
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
        "url": url,
    }


def _table(built: Any, url: str | None, seconds: float) -> str:
    written, record = built.artifact, built.artifact.record
    source, file, architecture = record["source"], record["file"], record["architecture"]
    rows = {
        "source": f"{source['name']}, {source['size']:,} bytes, sha256 {source['sha256']}",
        "network": f"{record['arch']}, form {record['form']} (form {source['form']} in the file), "
        f"{architecture['num_classes']} classes, {architecture['parameters']:,} parameters",
        "conversion": "; ".join(source["notes"]) or "every value taken over as it stands",
        "weights": f"{written.path}, {file['size']:,} bytes",
        "sha256": file["sha256"],
        "tensor digest": record["tensor_digest"],
        "licence": record["license"],
        "sidecar": str(written.sidecar),
        "published as": url,
        "time": f"{seconds:.1f} s",
    }
    lines = [f"{name:<14}{value}" for name, value in rows.items() if value is not None]
    return "\n".join([*lines, "", built.proof.table() if built.proof else "not proved (--no-verify)"])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half-written is cleared away
    sys.exit(main())
