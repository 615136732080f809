"""Writes an image of an OCI layout anew under another tag, with a layer more or its code changed:

verify.py added|edited LAYOUT:TAG LAYOUT:NEW
"""

import gzip
import hashlib
import io
import json
import pathlib
import sys
import tarfile

what = sys.argv[1]
(layout, tag), (_, new) = (argument.rsplit(":", 1) for argument in sys.argv[2:])
layout = pathlib.Path(layout)
blobs = layout / "blobs" / "sha256"


def read(descriptor):
    return (blobs / descriptor["digest"].split(":")[1]).read_bytes()


def put(data):
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def changed(data):
    """The layer with `helper.py` changed, or nothing if it has none."""
    source, target, found = tarfile.open(fileobj=io.BytesIO(data)), io.BytesIO(), False
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as out:
        for entry in source:
            content = source.extractfile(entry).read() if entry.isreg() else b""
            if entry.name.endswith("opt/agent/code/helper.py"):
                content, found = b"NAME = 'somebody else'\n", True
                entry.size = len(content)
            out.addfile(entry, io.BytesIO(content) if entry.isreg() else None)
    return target.getvalue() if found else None


index = json.loads((layout / "index.json").read_text())
name = "org.opencontainers.image.ref.name"
entry = next(it for it in index["manifests"] if it["annotations"][name] == tag)
manifest = json.loads(read(entry))
config = json.loads(read(manifest["config"]))
if what == "added":
    file = tarfile.TarInfo("opt/more.txt")
    file.size = 5
    more = io.BytesIO()
    with tarfile.open(fileobj=more, mode="w") as out:
        out.addfile(file, io.BytesIO(b"more\n"))
    more = more.getvalue()
    layer = put(gzip.compress(more, mtime=0))
    manifest["layers"].append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **layer})
    config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(more).hexdigest()}")
else:
    touched = 0
    for number, layer in enumerate(manifest["layers"]):
        if number == 0:
            continue  # the base's
        tar = changed(gzip.decompress(read(layer)))
        if tar is not None:
            touched += 1
            layer.update(put(gzip.compress(tar, mtime=0)))
            config["rootfs"]["diff_ids"][number] = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    assert touched == 1, touched
manifest["config"].update(put(json.dumps(config).encode()))
index["manifests"].append({**entry, **put(json.dumps(manifest).encode()), "annotations": {name: new}})
(layout / "index.json").write_text(json.dumps(index))
