"""Convert Torch7 ResNeXt checkpoints into weights for PyTorch, with a proof that they are right.

    python conversion/build_weights.py                        the authors' ResNeXt-50, downloaded
    python conversion/build_weights.py --arch resnext101_32x4d
    python conversion/build_weights.py --t7 my_checkpoint.t7
    python conversion/build_weights.py --sample               the small genuine checkpoint in this folder

Writes <arch>_type<form>-<first 8 hex of SHA-256>.pth, and a .json beside it with its provenance. Exit status: 0 done;
1 the proof failed, nothing was written; 2 bad usage or input, nothing was written.
"""

from __future__ import annotations

import argparse
import json
import lzma
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # as a script: this folder would shadow top-level modules of the same names
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from resnext.cli.command_line import CommandError, Parser, one_line, run

if TYPE_CHECKING:
    from conversion.artifact import Artifact

SAMPLE = Path(__file__).resolve().parent / "sample" / "cifar10_resnext11_4x8d_C_nested.t7.xz"
_UNKNOWN_LICENSE = "not stated in the file; the terms of the original checkpoint apply"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    return run("build_weights", lambda: _run(options))


def _parser() -> Parser:
    parser = Parser("build_weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--t7", type=Path, metavar="FILE", help="a Torch7 checkpoint on this machine")
    origin.add_argument("--sample", action="store_true", help="the small genuine checkpoint in this folder")
    origin.add_argument("--all", action="store_true", help="every network that the authors published, downloaded")
    parser.add_argument(
        "--arch",
        metavar="NAME",
        help="the published network to download (default: resnext50_32x4d); with --t7 or --sample, the expected one",
    )
    parser.add_argument("--out", type=Path, default=Path("weights"), metavar="DIR", help="default: ./weights")
    parser.add_argument(
        "--form", choices=("A", "B", "C"), help="form of the paper's figure 3; default: the one in --arch, or C"
    )
    parser.add_argument("--format", choices=("pth", "safetensors"), default="pth", help="default: pth")
    parser.add_argument("--no-verify", action="store_true", help="leave out the proof (the sidecar will say so)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each network instead of a summary")
    parser.add_argument(
        "--publish",
        metavar="BASE_URL",
        help="enter the result into resnext/weights/weights.json, under the URL where you will upload it",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    from resnext.weights.records import records
    from resnext.zoo import parse_name

    arch, form = parse_name(options.arch) if options.arch else (None, None)
    if options.form and form and options.form != form:
        raise CommandError(f"--arch {options.arch} and --form {options.form} cannot be used together")
    options.form = options.form or form or "C"
    if options.all and options.arch:
        raise CommandError("--all and --arch cannot be used together")
    licenses = {record.torch7.file: record.license for record in records().values()}
    if options.publish:
        _check_publish(options, licenses)
    if options.t7 is not None:
        _build(options.t7, arch, licenses.get(options.t7.name, _UNKNOWN_LICENSE), options)
    elif options.sample:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / SAMPLE.stem
            path.write_bytes(lzma.decompress(SAMPLE.read_bytes()))
            _build(path, arch, "BSD-3-Clause (random weights)", options)
    else:
        _build_official(arch, options)
    return 0


def _check_publish(options: argparse.Namespace, licenses: dict[str, str]) -> None:
    from resnext.weights.download import check_url

    for option, given in (
        ("--no-verify", options.no_verify),
        ("--format safetensors", options.format != "pth"),
        (f"form {options.form}", options.form != "C"),
    ):
        if given:
            raise CommandError(f"--publish takes a proved .pth of form C; it cannot be used with {option}")
    check_url(options.publish)
    origin = "--sample" if options.sample else options.t7 and options.t7.name
    if origin and origin not in licenses:
        raise CommandError(f"--publish cannot be used with {origin}: there are records of {', '.join(licenses)}")


def _build_official(arch: str | None, options: argparse.Namespace) -> None:
    from resnext.weights.cache import locked
    from resnext.weights.pretrained import torch7_file
    from resnext.weights.records import get_record, records

    names = list(records()) if options.all else [arch or "resnext50_32x4d"]
    for record in [get_record(name) for name in names]:
        with locked(record.architecture), torch7_file(record, progress=sys.stderr.isatty()) as (path, sha256):
            _build(path, record.architecture, record.license, options, sha256)


def _build(path: Path, arch: str | None, license_: str, options: argparse.Namespace, sha256: str | None = None) -> None:
    from conversion.artifact import publish
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
    url = publish(built, options.publish) if options.publish else None
    if options.json:
        print(json.dumps(_summary(built, url)))
        return
    print(_table(built, url, time.perf_counter() - started))


def _summary(built: Artifact, url: str | None) -> dict[str, Any]:
    record = built.record
    return {
        "path": str(built.path),
        "sidecar": str(built.sidecar),
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


def _table(built: Artifact, url: str | None, seconds: float) -> str:
    record = built.record
    origin, file, architecture = record["source"], record["file"], record["architecture"]
    rows = {
        "source": f"{origin['name']}, {origin['size']:,} bytes, sha256 {origin['sha256']}",
        "network": f"{record['arch']}, form {record['form']} (form {origin['form']} in the file), "
        f"{architecture['num_classes']} classes, {architecture['parameters']:,} parameters",
        "conversion": "; ".join(origin["notes"]) or "every value copied unchanged",
        "weights": f"{built.path}, {file['size']:,} bytes",
        "sha256": file["sha256"],
        "tensor digest": record["tensor_digest"],
        "licence": record["license"],
        "sidecar": built.sidecar,
        "published as": url,
        "time": f"{seconds:.1f} s",
    }
    lines = [f"{name:<14}{one_line(value)}" for name, value in rows.items() if value is not None]
    return "\n".join([*lines, "", built.proof.table() if built.proof else "not proved (--no-verify)"])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-written files are cleared away
    sys.exit(main())
