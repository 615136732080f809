"""Calls one hook of a project's build backend (PEP 517, PEP 660); what it returns goes into a file."""

import importlib
import json
import os
import sys

with open(sys.argv[1]) as file:
    request = json.load(file)
sys.path[:0] = request["path"]
os.chdir(request["source"])
os.umask(0o022)
module, _, attribute = request["backend"].partition(":")
backend = importlib.import_module(module)
for name in filter(None, attribute.split(".")):
    backend = getattr(backend, name)
hook = getattr(backend, request["hook"], None)
answer = {"missing": True} if hook is None else {"value": hook(*request["arguments"])}
with open(request["answer"], "w") as file:
    json.dump(answer, file)
