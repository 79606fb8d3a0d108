"""Enter a built `.pth` into the records of `resnext/weights.json`, from where `pretrained=True` finds it."""

from __future__ import annotations

import json
import os
from urllib.parse import quote

from conversion.artifact import Artifact
from resnext.weights import records
from resnext.weights.download import check_url


def publish(built: Artifact, base_url: str) -> str:
    """Write file name, URL, size and digest of a build into its record, and the digest of the source it came from.

    The file itself is for its maintainer to upload under `base_url`. Returns the URL. Raises ValueError where there is
    no record to write to, DownloadError for a base URL that nothing would be fetched from.
    """
    content = json.loads(records.RECORDS.read_text(encoding="utf-8"))
    arch, file, source = built.record["arch"], built.record["file"], built.record["source"]
    if arch not in content or content[arch]["torch7"]["file"] != source["name"]:
        known = ", ".join(f"{name} from {record['torch7']['file']}" for name, record in content.items())
        raise ValueError(f"no record for {arch} from {source['name']}; there are: {known}")
    stated = content[arch]["torch7"]["sha256"]
    if stated not in (None, source["sha256"]):
        raise ValueError(f"{source['name']} has SHA-256 {source['sha256']}, the record says {stated}")
    url = f"{base_url.rstrip('/')}/{quote(file['name'])}"
    check_url(url)
    content[arch]["torch7"]["sha256"] = source["sha256"]
    content[arch]["hosted"] = {
        "file": file["name"],
        "urls": [url],
        "size": file["size"],
        "sha256": file["sha256"],
        "tensor_digest": built.record["tensor_digest"],
    }
    temporary = records.RECORDS.with_name(records.RECORDS.name + ".writing")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, records.RECORDS)
    records.records.cache_clear()
    return url
