#!/usr/bin/env python3
"""The executor's rows of the budget table: from a queue to the first line of the program, and what an idle daemon costs.

A task is a stored script that prints the time at once; its image is built beforehand, as it is in a queue that repeats
itself. The clock starts when the queue no longer lists the task, and stops at the time that the program printed.
"""

import base64
import http.server
import json
import os
import pathlib
import re
import signal
import socketserver
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request

FIRST_LINE = "queue pull to first line, image present"
SCRIPT = "import time\nprint('first line at', time.time(), flush=True)\n"
IDLE = 60
# How long a peer may take to bring a task to its end, in seconds: the public agent installs everything again.
PATIENCE = 600


class Counter(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Stands between a daemon and the server, passes everything on and counts."""

    daemon_threads = True

    def __init__(self, server):
        super().__init__(("127.0.0.1", 0), Relay)
        self.upstream = server
        self.requests = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Relay(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def relay(self):
        self.server.requests += 1
        length = int(self.headers.get("Content-Length") or 0)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "content-length")}
        request = urllib.request.Request(
            self.server.upstream + self.path, data=self.rfile.read(length) or None, headers=headers, method=self.command
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            answer = opener.open(request, timeout=60)
        except urllib.error.HTTPError as refused:
            answer = refused
        body = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = relay

    def log_message(self, *_):
        pass


class Api:
    """The server's API, quick enough to see a queue change."""

    def __init__(self, conf):
        text = pathlib.Path(conf).read_text()
        find = lambda key: re.search(rf'{key}"?\s*[:=]\s*"?([^"\s,}}]+)', text).group(1)
        self.server = find("api_server").rstrip("/")
        self.key, self.secret = find("access_key"), find("secret_key")
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.token = None

    def call(self, endpoint, body):
        if self.token is None:
            basic = base64.b64encode(f"{self.key}:{self.secret}".encode()).decode()
            self.token = self.send("auth.login", {}, f"Basic {basic}")["token"]
        return self.send(endpoint, body, f"Bearer {self.token}")

    def send(self, endpoint, body, authorization):
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.server}/{endpoint}", json.dumps(body).encode(), headers)
        return json.load(self.opener.open(request, timeout=60))["data"]


def resident(pid):
    """Resident memory of a process and its children, in MiB."""
    total = 0
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        total = int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024
    except (OSError, AttributeError):
        return 0
    return total + sum(resident(int(it)) for it in children)


class Queue:
    """Measures one peer's daemon."""

    def __init__(self, bench):
        self.bench = bench
        self.api = Api(bench.conf)

    def task(self, queue):
        body = {
            "name": "first line",
            "type": "training",
            "script": {"entry_point": "main.py", "working_dir": ".", "diff": SCRIPT, "binary": "python3",
                       "requirements": {"pip": ""}},
            "container": {"image": "bench-base:latest", "arguments": "--network host"},
        }
        return self.api.call("tasks.create", body)["id"]

    def first_line(self, task):
        log = self.api.call("events.get_task_log", {"task": task, "order": "asc", "batch_size": 1000})
        text = "\n".join(it.get("msg", "") for it in log["events"])
        found = re.search(r"first line at ([0-9.]+)", text)
        return float(found.group(1)) if found else None

    def one(self, task, queue):
        """Seconds from the pull to the first line."""
        self.api.call("tasks.enqueue", {"task": task, "queue": queue})
        begin = time.time()
        pulled = None
        while time.time() - begin < PATIENCE:
            if pulled is None:
                entries = self.api.call("queues.get_by_id", {"queue": queue})["queue"].get("entries") or []
                if task not in [it["task"] for it in entries]:
                    pulled = time.time()
                time.sleep(0.005)
                continue
            state = self.api.call("tasks.get_by_id", {"task": task})["task"]["status"]
            if state in ("completed", "failed", "stopped"):
                if state != "completed":
                    raise RuntimeError(f"the task ended as {state}")
                for _ in range(50):
                    if line := self.first_line(task):
                        return line - pulled
                    time.sleep(0.2)
                raise RuntimeError("the task's first line never reached the server")
            time.sleep(0.1)
        raise RuntimeError(f"the task had not ended after {PATIENCE} s")

    def measure(self, peer, command, env, runs, warm=1):
        """Rows of one daemon: pull to first line, memory and requests while idle."""
        name = f"bench-{peer}"
        queue = self.api.call("queues.create", {"name": name})["id"]
        counter = Counter(self.api.server)
        log = open(self.bench.work / f"{name}.log", "w")
        env = {**env, "CLEARML_API_HOST": counter.address, "CLEARML_API_ACCESS_KEY": self.api.key,
               "CLEARML_API_SECRET_KEY": self.api.secret}
        child = subprocess.Popen([*command, "--queue", name], env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            times = []
            for number in range(warm + runs):
                seconds = self.one(self.task(queue), queue)
                if number >= warm:
                    times.append(seconds)
            self.bench.rows.setdefault(FIRST_LINE, {})[peer] = statistics.median(times)
            time.sleep(10)
            counted = counter.requests
            time.sleep(IDLE)
            self.bench.rows.setdefault("idle daemon: requests a minute", {})[peer] = (counter.requests - counted) * 60 / IDLE
            self.bench.rows.setdefault("idle daemon: MiB resident", {})[peer] = resident(child.pid)
        finally:
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            counter.shutdown()

    def bare(self, docker, runs):
        """`docker run` of an image that prints the same line."""
        times = []
        for _ in range(runs + 1):
            begin = time.time()
            out = self.bench.read(docker, "run", "--rm", "--network", "host", "--entrypoint", "", "bench-base:latest",
                                  "python3", "-c", SCRIPT)
            times.append(float(out.split()[-1]) - begin)
        return statistics.median(times[1:])
