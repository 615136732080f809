#!/usr/bin/env python3
"""Many short tasks while whatever has a part in them is killed at random: none lost, none run twice, none stuck.

Killed are the daemon, the server, the engine (dockerd, Podman's service, each of this proof's own; the monitors of Podman's
containers) and the tasks' programs. Each task writes its
id to a file once and prints a line. Afterwards every task must be completed, its id must stand in the file once and the
line in its console once; a task whose program was killed must have failed and say so, and must not have run again. Nothing
may be left: no process, no container, no unit that is not over. What fails the machinery (an engine that is killed while an
image is brought there) is tried again, as `--retries` says. Started by `ci/soak daemon [TASKS] [ENGINE]`.
"""

import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
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
# How often each is killed, against one another.
KILLS = {"daemon": 4, "server": 2, "engine": 2, "monitor": 2, "program": 1}
ENDED = ("completed", "failed", "stopped")
SCRIPT = """import os, time
time.sleep({seconds})
with open('/soak/ran', 'a') as file:
    file.write(os.environ['CLEARML_TASK_ID'] + '\\n')
print('this task ran', flush=True)
"""


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


def programs(entry):
    """The processes of tasks' programs: their ids and their tasks'."""
    for directory in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
            if not words[0].rpartition(b"/")[2].startswith(b"python") or not any(it.endswith(entry) for it in words[1:]):
                continue
            variables = dict(it.split(b"=", 1) for it in (directory / "environ").read_bytes().split(b"\0") if b"=" in it)
            if b"CLEARML_TASK_ID" in variables:
                yield int(directory.name), variables[b"CLEARML_TASK_ID"].decode()
        except OSError:
            continue


class Soak:
    def __init__(self, tasks, engine):
        self.agent = os.environ.get("AGENT_TEST_PROGRAM", str(ROOT / "target" / "release" / "agent"))
        self.engine_name = engine
        # A socket's path must be short.
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="agent-soak-"))
        # No other program on this machine has a file of this name among its arguments.
        self.entry = f"{self.work.name}.py"
        (self.work / "home").mkdir()
        (self.work / "soak").mkdir()
        (self.work / "soak" / "ran").touch()
        self.env = {
            **os.environ,
            "HOME": str(self.work / "home"),
            "AGENT_CACHE_DIR": os.environ.get("AGENT_CACHE_DIR") or str(self.work / "store"),
            "AGENT_STATE_DIR": str(self.work / "state"),
            "CLEARML_WORKER_NAME": "soak",
            "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": "1",
            "CLEARML_AGENT__AGENT__DOCKER_INSTALL_OPENCV_LIBS": "false",
            # A task names no directory of the machine; whoever runs the agent does.
            "CLEARML_DOCKER_IMAGE": f"oci:{os.environ['AGENT_TEST_BASE']}:latest",
            "CLEARML_CONFIG_FILE": str(self.work / "server" / "clearml.conf"),
        }
        if engine == "docker":
            self.env["DOCKER_HOST"] = f"unix://{self.work}/docker.sock"
        if engine == "podman":
            self.env["CONTAINER_HOST"] = f"unix://{self.work}/podman.sock"
            self.env["CONTAINERS_STORAGE_CONF"] = str(self.work / "storage.conf")
        self.children = {}
        self.kills = collections.Counter()
        self.killed_programs = set()
        self.wanted = tasks

    def start(self, name, *command):
        with open(self.work / f"{name}.log", "a") as log:
            self.children[name] = subprocess.Popen(
                command, env=self.env, cwd=self.work, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def server(self):
        listen = getattr(self, "listen", "127.0.0.1:0")
        self.start("server", self.agent, "server", "--listen", listen, "--data", str(self.work / "server"))
        conf = self.work / "server" / "clearml.conf"
        for _ in range(600):
            try:
                self.api = Api(conf)
                self.api.call("debug.ping", {})
                self.listen = self.api.server.removeprefix("http://")
                return
            except (OSError, AttributeError, urllib.error.URLError):
                time.sleep(0.1)
        sys.exit(f"error: the server does not start: see {self.work}/server.log")

    def engine(self):
        """One of our own, whose containers go on without it."""
        getattr(self, self.engine_name)()

    def podman(self):
        places = {"graphroot": "data", "runroot": "exec"}
        lines = [f'{name} = "{self.work / place}"' for name, place in places.items()]
        (self.work / "storage.conf").write_text("\n".join(["[storage]", 'driver = "overlay"', *lines, ""]))
        (self.work / "podman.sock").unlink(missing_ok=True)
        # With that variable it would be a client.
        service = ["podman", "system", "service", "--time", "0", self.env["CONTAINER_HOST"]]
        self.start("engine", "env", "-u", "CONTAINER_HOST", *service)
        for _ in range(600):
            if self.asks_podman("version").returncode == 0:
                return
            time.sleep(0.1)
        sys.exit(f"error: Podman's service does not start: see {self.work}/engine.log")

    def asks_podman(self, *words):
        command = ["podman", "--url", self.env["CONTAINER_HOST"], *words]
        return subprocess.run(command, env=self.env, capture_output=True, text=True)

    def monitors(self):
        """The processes that hold Podman's containers."""
        store = str(self.work / "data").encode()
        for directory in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (directory / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"conmon") and any(it.startswith(store) for it in words):
                    yield int(directory.name)

    def docker(self):
        (self.work / "daemon.json").write_text("{}")
        # What a killed one leaves: the number of its containerd may stand for a dead process that nobody waits for.
        for name in ("docker.sock", "docker.pid", "exec/containerd/containerd.pid"):
            (self.work / name).unlink(missing_ok=True)
        places = {"--config-file": "daemon.json", "--data-root": "data", "--exec-root": "exec", "--pidfile": "docker.pid"}
        flags = [it for flag, name in places.items() for it in (flag, str(self.work / name))]
        self.start(
            "engine", "dockerd", *flags, "--host", self.env["DOCKER_HOST"], "--bridge", "none", "--iptables=false",
            "--ip6tables=false", "--live-restore", "--cgroup-parent", f"/{self.work.name}",
        )
        for _ in range(600):
            if subprocess.run(["docker", "version"], env=self.env, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit(f"error: dockerd does not start: see {self.work}/engine.log")

    def daemon(self):
        self.start(
            "daemon", self.agent, "--progress", "plain", "daemon", "--foreground", "--cpu-only", f"--{self.engine_name}",
            "--queue", "soak", "--services-mode", "2", "--retries", "100",
        )

    def kill(self, name):
        if name == "program":
            found = list(programs(self.entry.encode()))
            if found:
                pid, task = random.choice(found)
                self.killed_programs.add(task)
                self.kills[name] += 1
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            return
        if name == "monitor":
            for pid in list(self.monitors())[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self.kills[name] += 1
            return
        self.children[name].send_signal(signal.SIGKILL)
        self.children[name].wait()
        self.kills[name] += 1
        time.sleep(random.random() * 2)
        getattr(self, name)()

    def states(self):
        fields = ["id", "status", "status_reason", "status_message"]
        found, page = [], 0
        while True:
            body = {"name": "^soak$", "only_fields": fields, "order_by": ["id"], "page": page, "page_size": 500}
            tasks = self.api.call("tasks.get_all", body)["tasks"]
            found += tasks
            page += 1
            if len(tasks) < 500:
                return found

    def run(self):
        self.server()
        kinds = ["daemon", "server", "program"]
        if self.engine_name != "native":
            self.engine()
            kinds.append("engine")
        if self.engine_name == "podman":
            kinds.append("monitor")
        queue = self.api.call("queues.create", {"name": "soak"})["id"]
        container = {"arguments": f"-v {self.work}/soak:/soak --network host"}
        for _ in range(self.wanted):
            script = SCRIPT.format(seconds=round(random.random() * 2, 2))
            body = {
                "name": "soak", "type": "training", "container": container,
                "script": {"entry_point": self.entry, "working_dir": ".", "diff": script, "binary": "python3", "requirements": {"pip": ""}},
            }
            task = self.api.call("tasks.create", body)["id"]
            self.api.call("tasks.enqueue", {"task": task, "queue": queue})
        self.daemon()
        begin = changed = time.monotonic()
        before = None
        while True:
            # A few tasks are soon over.
            time.sleep(random.uniform(1, 8 if self.wanted > 20 else 3))
            self.kill(random.choices(kinds, [KILLS[it] for it in kinds])[0])
            states = collections.Counter(it["status"] for it in self.states())
            if states != before:
                before, changed = states, time.monotonic()
                say(f"{time.monotonic() - begin:.0f} s: {dict(states)}, killed {dict(self.kills)}")
            if sum(states[it] for it in ENDED) == self.wanted:
                break
            if time.monotonic() - changed > STUCK:
                say("stuck")
                break
        # Whatever comes too late, or twice, shows now.
        time.sleep(min(15, self.wanted))
        wrong = self.judge()
        self.end("daemon")
        wrong += self.left()
        for line in wrong:
            say(line)
        say(f"{self.wanted} tasks in {time.monotonic() - begin:.0f} s, killed {dict(self.kills)}: {len(wrong)} things wrong")
        return not wrong

    def judge(self):
        """What is wrong with the tasks."""
        wrong = []
        ran = collections.Counter((self.work / "soak" / "ran").read_text().split())
        tasks = self.states()
        if len(tasks) != self.wanted:
            wrong.append(f"{len(tasks)} tasks, not {self.wanted}")
        for task in tasks:
            name, status, reason = task["id"], task["status"], task.get("status_reason") or ""
            log = self.api.call("events.get_task_log", {"task": name, "order": "asc", "batch_size": 10000})
            lines = sum(it.get("msg", "").count("this task ran") for it in log["events"])
            if name in self.killed_programs:
                # It may have been over already.
                told = status == "completed" or (status == "failed" and "SIGKILL" in reason)
                if not told or ran[name] > 1 or lines > 1:
                    wrong.append(f"{name}, whose program was killed, is {status} ({reason}), ran {ran[name]} times, has {lines} lines")
                continue
            if status != "completed":
                wrong.append(f"{name} is {status}: {reason}; {task.get('status_message')}")
            if ran[name] != 1:
                wrong.append(f"{name} ran {ran[name]} times")
            if lines != 1:
                wrong.append(f"{name} has its line {lines} times")
        return wrong

    def left(self):
        """What is left over once everything has ended."""
        wrong = [f"the program {pid} of {task} still runs" for pid, task in programs(self.entry.encode())]
        for file in (self.work / "state" / "runs").glob("*/unit.json"):
            unit = json.loads(file.read_text())
            if unit["phase"] != "done":
                wrong.append(f"the run {unit['run']} of {unit['task']} is in phase {unit['phase']}")
        if self.engine_name == "docker":
            listed = subprocess.run(["docker", "ps", "-aq"], env=self.env, capture_output=True, text=True)
            wrong += [f"the container {it} is left" for it in listed.stdout.split()]
        if self.engine_name == "podman":
            wrong += [f"the container {it} is left" for it in self.asks_podman("ps", "--all", "--quiet").stdout.split()]
        workers = self.api.call("workers.get_all", {})["workers"]
        return wrong + [f"the worker {it['id']} is left" for it in workers]

    def end(self, name):
        child = self.children.pop(name, None)
        if child is None:
            return
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def clean(self, well):
        self.end("daemon")
        if self.engine_name == "podman":
            self.asks_podman("rm", "--all", "--force", "--time", "0")
        for name in ("server", "engine"):
            self.end(name)
        if self.engine_name == "podman":
            subprocess.run(["umount", str(self.work / "data" / "overlay")], stderr=subprocess.DEVNULL)
        if self.engine_name == "docker":
            # One that was killed did not undo this, and the next did not know of it.
            for mounted in ("data", "exec/netns/default"):
                subprocess.run(["umount", str(self.work / mounted)], stderr=subprocess.DEVNULL)
        if well:
            shutil.rmtree(self.work, ignore_errors=True)
        else:
            say((self.work / "daemon.log").read_text()[-6000:])
            say(f"logs are in {self.work}")


if __name__ == "__main__":
    soak = Soak(int(sys.argv[1]) if len(sys.argv) > 1 else 200, sys.argv[2] if len(sys.argv) > 2 else "native")
    well = False
    try:
        well = soak.run()
    finally:
        soak.clean(well)
    sys.exit(0 if well else 1)
