//! What a service manager is told (`sd_notify(3)`): that we are ready, that we stop, that we live.
//!
//! A datagram to the socket it names; without one nothing is told. Programs that are started must not have the variable:
//! they would speak for us.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::config::Environment;

/// The service manager's socket.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`). A socket that cannot be used is as none.
    #[must_use]
    pub fn from(environment: &Environment) -> Self {
        let address = environment.get("NOTIFY_SOCKET").and_then(|path| match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(path).ok(),
        });
        let socket = address.and_then(|it| Some((UnixDatagram::unbound().ok()?, it)));
        let ours = environment.get("WATCHDOG_PID").is_none_or(|it| it == std::process::id().to_string());
        let limit = environment.get("WATCHDOG_USEC").and_then(|it| it.parse().ok()).filter(|it| *it > 0 && ours);
        let watchdog = limit.filter(|_| socket.is_some()).map(|it| Duration::from_micros(it) / 2);
        Self { socket, watchdog }
    }

    /// How often [`Self::alive`] is to be called; none: never.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The daemon serves.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The daemon is about to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// The daemon lives.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// What it does, in a line for people.
    pub fn status(&self, text: &str) {
        self.tell(&format!("STATUS={}", text.replace('\n', " ")));
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            // A manager that does not listen is no reason to stop.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_what_it_is_told_by_path_or_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let name = format!("agent-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}")),
        ];
        for (socket, address) in sockets {
            let environment = Environment::of([("NOTIFY_SOCKET", &address), ("WATCHDOG_USEC", "3000000")]);
            let notify = Notify::from(&environment);
            assert_eq!(notify.watchdog(), Some(Duration::from_millis(1500)));
            notify.ready();
            notify.status("two\nlines");
            let mut buffer = [0; 64];
            for expected in ["READY=1", "STATUS=two lines"] {
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(String::from_utf8_lossy(&buffer[..length]), expected);
            }
        }
    }

    #[test]
    fn without_a_manager_nothing_is_told() {
        let notify = Notify::from(&Environment::of([("WATCHDOG_USEC", "1000")]));
        assert_eq!(notify.watchdog(), None);
        notify.ready();
        let elsewhere = Environment::of([("NOTIFY_SOCKET", "/nonexistent/socket"), ("WATCHDOG_PID", "1")]);
        let notify = Notify::from(&elsewhere);
        assert_eq!(notify.watchdog(), None);
        notify.stopping();
    }
}
