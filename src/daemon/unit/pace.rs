//! How often a unit looks, tells and tries again.

use std::time::Duration;

/// How often things are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The task on the server.
    pub(super) poll: Duration,
    /// The server hears that the task is alive.
    pub(super) ping: Duration,
    /// The server hears which worker has it, until its run says so itself.
    pub(super) report: Duration,
    /// Console lines are sent.
    pub(super) lines: Duration,
    /// The least time between two messages about one phase.
    pub(super) say: Duration,
    /// The pause after a server or an engine did not answer; each further one is twice as long.
    pub(super) pause: Duration,
    /// The longest pause.
    pub(super) longest: Duration,
    /// How long a task that is in no queue may be on its way to another worker.
    pub(super) orphan: Duration,
    /// How long a unit that is to stop waits for a server or an engine that is away.
    pub(super) leave: Duration,
    /// How long a message may be on its way that a killed process sent.
    pub(super) late: Duration,
    /// How often an engine is asked for a run that is waited for, and how long it may take to answer.
    pub(super) probe: Duration,
}

impl Pace {
    pub(super) const REAL: Self = Self {
        poll: Duration::from_secs(5),
        ping: Duration::from_secs(60),
        report: Duration::from_secs(30),
        lines: Duration::from_secs(2),
        say: Duration::from_secs(10),
        pause: Duration::from_millis(300),
        longest: Duration::from_secs(30),
        orphan: Duration::from_secs(20),
        leave: Duration::from_secs(3),
        late: Duration::from_secs(5),
        probe: Duration::from_secs(30),
    };
}
