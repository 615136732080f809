#!/usr/bin/env python3
"""Many short tasks while the daemon, the server and the engine are killed at random: none lost, none run twice, none stuck.

Each task writes its id to a file once and prints a line. Afterwards every task must be completed, its id must stand in the
file once, and the line must stand in its console once. Started by `ci/soak daemon [TASKS] [ENGINE]`.
"""

import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "ci"))
from bench_queue import Api

# How long all of it may take without a task ending, in seconds.
STUCK = 300
SCRIPT = """import os, time
time.sleep({seconds})
with open('/soak/ran', 'a') as file:
    file.write(os.environ['CLEARML_TASK_ID'] + '\\n')
print('this task ran', flush=True)
"""


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


class Soak:
    def __init__(self, tasks, engine):
        self.agent = os.environ.get("AGENT_TEST_PROGRAM", str(ROOT / "target" / "release" / "agent"))
        self.engine = engine
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="soak-", dir=ROOT / "target" / "ci"))
        (self.work / "home").mkdir()
        (self.work / "ran").touch()
        self.env = {
            **os.environ,
            "HOME": str(self.work / "home"),
            "AGENT_CACHE_DIR": str(self.work / "store"),
            "AGENT_STATE_DIR": str(self.work / "state"),
            "CLEARML_WORKER_NAME": "soak",
            "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": "1",
            "CLEARML_CONFIG_FILE": str(self.work / "server" / "clearml.conf"),
        }
        self.children = {}
        self.kills = collections.Counter()
        self.wanted = tasks

    def start(self, name, *command):
        log = open(self.work / f"{name}.log", "a")
        self.children[name] = subprocess.Popen(
            [self.agent, *command], env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )

    def server(self):
        listen = getattr(self, "listen", "127.0.0.1:0")
        self.start("server", "server", "--listen", listen, "--data", str(self.work / "server"))
        conf = self.work / "server" / "clearml.conf"
        for _ in range(300):
            try:
                self.api = Api(conf)
                self.api.call("debug.ping", {})
                self.listen = self.api.server.removeprefix("http://")
                return
            except (OSError, AttributeError, urllib.error.URLError):
                time.sleep(0.1)
        sys.exit("error: the server does not start")

    def daemon(self):
        self.start("daemon", "daemon", "--foreground", "--cpu-only", f"--{self.engine}", "--queue", "soak", "--services-mode", "2")

    def kill(self, name):
        self.children[name].send_signal(signal.SIGKILL)
        self.children[name].wait()
        self.kills[name] += 1
        time.sleep(random.random() * 2)
        getattr(self, name)()

    def states(self):
        body = {"name": "^soak$", "only_fields": ["id", "status", "status_reason", "status_message"], "page": 0, "page_size": 500}
        return self.api.call("tasks.get_all", body)["tasks"]

    def run(self):
        self.server()
        queue = self.api.call("queues.create", {"name": "soak"})["id"]
        arguments = f"-v {self.work}:/soak --network host"
        if self.engine != "native":
            base = "soak-base:latest"
            host = ["--dest-daemon-host", os.environ["DOCKER_HOST"]]
            source = f"oci:{os.environ['AGENT_TEST_BASE']}:latest"
            subprocess.run(["skopeo", "copy", "--quiet", *host, source, f"docker-daemon:{base}"], check=True)
        else:
            # A task names no directory of the machine; whoever runs the agent does.
            base = ""
            self.env["CLEARML_DOCKER_IMAGE"] = f"oci:{os.environ['AGENT_TEST_BASE']}:latest"
        for number in range(self.wanted):
            script = SCRIPT.format(seconds=round(random.random() * 2, 2))
            body = {
                "name": "soak", "type": "training",
                "script": {"entry_point": "main.py", "working_dir": ".", "diff": script, "binary": "python3", "requirements": {"pip": ""}},
                "container": {"image": base, "arguments": arguments},
            }
            task = self.api.call("tasks.create", body)["id"]
            self.api.call("tasks.enqueue", {"task": task, "queue": queue})
        self.daemon()
        begin = changed = time.monotonic()
        before = None
        while True:
            time.sleep(random.uniform(1, 8))
            self.kill(random.choices(["daemon", "server"], [3, 1])[0])
            states = collections.Counter(it["status"] for it in self.states())
            if states != before:
                before, changed = states, time.monotonic()
                say(f"{time.monotonic() - begin:.0f} s: {dict(states)}, killed {dict(self.kills)}")
            if states["completed"] + states["failed"] + states["stopped"] == self.wanted:
                break
            if time.monotonic() - changed > STUCK:
                say("stuck")
                break
        time.sleep(5)
        return self.judge()

    def judge(self):
        wrong = []
        ran = collections.Counter((self.work / "ran").read_text().split())
        for task in self.states():
            if task["status"] != "completed":
                wrong.append(f"{task['id']} is {task['status']}: {task.get('status_reason')} {task.get('status_message')}")
            if ran[task["id"]] != 1:
                wrong.append(f"{task['id']} ran {ran[task['id']]} times")
            log = self.api.call("events.get_task_log", {"task": task["id"], "order": "asc", "batch_size": 1000})
            lines = sum(it.get("msg", "").count("this task ran") for it in log["events"])
            if lines != 1:
                wrong.append(f"{task['id']} has its line {lines} times")
        for line in wrong:
            say(line)
        say(f"{self.wanted} tasks, killed {dict(self.kills)}: {len(wrong)} things wrong; logs in {self.work}")
        return not wrong

    def end(self):
        for child in self.children.values():
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()


if __name__ == "__main__":
    soak = Soak(int(sys.argv[1]) if len(sys.argv) > 1 else 200, sys.argv[2] if len(sys.argv) > 2 else "native")
    try:
        well = soak.run()
    finally:
        soak.end()
    sys.exit(0 if well else 1)
