"""Does one piece of a build inside the sandbox; what comes of it goes into a file.

Tells where sources lie and what their build system is, unpacking them first if need be, or calls a hook of their build
backend (PEP 517, PEP 660).
"""

import importlib
import json
import os
import sys


def unpack(archive, into):
    import tarfile
    import zipfile

    os.mkdir(into)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            file.extractall(into)
    else:
        with tarfile.open(archive) as file:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            file.extractall(into, **safe)
    names = os.listdir(into)
    alone = len(names) == 1 and os.path.isdir(os.path.join(into, names[0]))
    return os.path.join(into, names[0]) if alone else into


def tell(request):
    source = unpack(request["archive"], request["source"]) if request["archive"] else request["source"]
    path = os.path.join(source, "pyproject.toml")
    text = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
    return {"source": source, "pyproject": text}


def call(request):
    os.environ["PATH"] = request["programs"] + os.pathsep + os.environ["PATH"]
    sys.path[:0] = request["path"]
    os.chdir(request["source"])
    module, _, attribute = request["backend"].partition(":")
    backend = importlib.import_module(module)
    for name in filter(None, attribute.split(".")):
        backend = getattr(backend, name)
    hook = getattr(backend, request["hook"], None)
    return {"missing": True} if hook is None else {"value": hook(*request["arguments"])}


# The directory of this file is no place to import from.
del sys.path[0]
with open(sys.argv[1], encoding="utf-8") as file:
    request = json.load(file)
os.umask(0o022)
answer = call(request) if "hook" in request else tell(request)
with open(request["answer"], "w", encoding="utf-8") as file:
    json.dump(answer, file)
