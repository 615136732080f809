# Sourced by the scripts beside it: where things are, and how to speak.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
ci=$root/target/ci
# Sockets live in a short directory of this checkout's own: a path of over 107 bytes is no socket.
checkout=$(printf %s "$root" | sha256sum | cut -c1-8)
if [ "$(id -u)" = 0 ]; then run=/run/agent-ci-$checkout; else run=${XDG_RUNTIME_DIR:-/tmp}/agent-ci-$checkout; fi
bridge=agci-$checkout
# Where the tests make their trees.
trees=/tmp/at-${checkout:0:6}

say() { printf '==> %s\n' "$*" >&2; }
fail() {
  printf 'error: %s\n' "$1" >&2
  shift
  local hint
  for hint in "$@"; do printf '  hint: %s\n' "$hint" >&2; done
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# again TIMES COMMAND…: runs a command until it succeeds, with growing pauses.
again() {
  local times=$1 round
  shift
  for round in $(seq "$times"); do
    "$@" && return 0
    [ "$round" = "$times" ] || { say "failed (attempt $round of $times), trying again: $*"; sleep $((round * 5)); }
  done
  return 1
}

# await SECONDS WHAT COMMAND…: waits until a command succeeds.
await() {
  local seconds=$1 what=$2 end
  shift 2
  end=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || { printf 'error: %s is not ready after %s s\n' "$what" "$seconds" >&2; return 1; }
    sleep 0.2
  done
}

# alive NAME: whether the process of a pid file of ours runs, and is that program (pids are used again).
alive() {
  local pid
  pid=$(cat "$run/$1.pid" 2>/dev/null) && [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ]
}

# daemon NAME COMMAND…: starts a program in a session of its own, its output in a log, its pid in a file.
daemon() {
  local name=$1
  shift
  # Somewhere of its own: podman's conmon leaves files where it was started.
  (cd "$run" && exec setsid "$@") >"$ci/$name.log" 2>&1 </dev/null &
  echo $! >"$run/$name.pid"
}

# idle LOG COMMAND…: starts a command that has of the processors what nobody else wants, its output in a log. In a session of
# its own: where the kernel shares the processors among sessions, niceness counts within one alone.
idle() {
  local log=$1
  shift
  ! chrt --idle 0 true 2>/dev/null || set -- chrt --idle 0 "$@"
  setsid bash -c 'echo 19 2>/dev/null >/proc/self/autogroup; exec nice -n 19 "$@"' idle "$@" >"$log" 2>&1 </dev/null &
}

# end NAME: ends a program that `daemon` started, and waits for it.
end() {
  local pid round
  if alive "$1"; then
    pid=$(cat "$run/$1.pid")
    kill "$pid" 2>/dev/null
    for round in $(seq 100); do
      alive "$1" || break
      [ "$round" != 75 ] || kill -KILL "$pid" 2>/dev/null
      sleep 0.2
    done
  fi
  rm -f "$run/$1.pid"
}

# unmount DIRECTORY: whatever is still mounted below it, innermost first.
unmount() {
  local point
  awk -v at="$1/" 'index($5, at) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r point; do
    umount -l "$(printf '%b' "$point")" 2>/dev/null
  done
  return 0
}

# Processes of containers whose engine was killed outlive it: they are found by the control group they are all in.
stray() {
  local file pid
  find /sys/fs/cgroup/agent-ci-"$checkout" /sys/fs/cgroup/*/agent-ci-"$checkout" -name cgroup.procs 2>/dev/null | while read -r file; do
    while read -r pid; do kill -KILL "$pid" 2>/dev/null; done <"$file"
  done
  return 0
}
