//! SIGHUP, which whoever starts a program may have switched off for it.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// The signal that comes when the terminal is closed, heard from the moment this is made. Where it was ignored when this
/// process began (`nohup`) it stays ignored: listening would bring it back.
#[derive(Debug)]
pub struct Hangup(Option<tokio::signal::unix::Signal>);

impl Hangup {
    /// Begins to listen.
    ///
    /// # Errors
    /// Whatever the kernel gives.
    pub fn listen() -> io::Result<Self> {
        if is_ignored(Signal::HUP) {
            return Ok(Self(None));
        }
        signal(SignalKind::hangup()).map(Some).map(Self)
    }

    /// Comes with the next one; never where it is ignored.
    pub async fn recv(&mut self) {
        let Some(signal) = &mut self.0 else { return std::future::pending().await };
        signal.recv().await;
    }
}

/// Whether this process ignores a signal.
fn is_ignored(signal: Signal) -> bool {
    fs_err::read_to_string("/proc/self/status").is_ok_and(|it| ignores(&it, signal))
}

/// The same of a process whose status (proc_pid_status(5)) is this.
fn ignores(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|it| u64::from_str_radix(it.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|it| it >> (signal.as_raw() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_signal_is_ignored_if_its_bit_says_so() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001003\n";
        let all = [Signal::HUP, Signal::INT, Signal::PIPE, Signal::TERM].map(|it| ignores(status, it));
        assert_eq!(all, [true, true, true, false]);
        assert!(!ignores("", Signal::HUP));
    }

    /// Runs itself again in a shell that ignores the signal, and in one that does not.
    #[test]
    fn what_was_ignored_at_the_start_stays_ignored() {
        const CHILD: &str = "HANGUP_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let heard = runtime.block_on(async {
                let mut hangup = Hangup::listen().unwrap();
                rustix::process::kill_process(rustix::process::getpid(), Signal::HUP).unwrap();
                // Long where it comes, short where it never does.
                let limit = Duration::from_secs(if hangup.0.is_some() { 60 } else { 1 });
                tokio::time::timeout(limit, hangup.recv()).await.is_ok()
            });
            assert_eq!(std::env::var(CHILD).unwrap(), if heard { "heard" } else { "ignored" });
            return;
        }
        for (before, expected) in [("trap '' HUP; ", "ignored"), ("", "heard")] {
            let mut again = Command::new("sh");
            again.args(["-c", &format!("{before}exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
            again.args(["--exact", "process::hangup::tests::what_was_ignored_at_the_start_stays_ignored"]);
            let output = again.env(CHILD, expected).output().unwrap();
            assert!(output.status.success(), "{expected}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
