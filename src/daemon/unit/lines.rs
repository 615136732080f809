//! Console lines that a unit says itself: before its run, which has the spool then, and after it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::locked;
use crate::clearml::Client;
use crate::clearml::events::{Level, Line};
use crate::daemon::journal::{Entry, Side, Words, now};
use crate::spool::{Owner, Spool, SpoolError, drain};

/// A spool that is ours for now, and its way to the server.
pub(super) struct Lines {
    spool: Arc<Mutex<Spool>>,
    /// The same for this machine.
    words: Words,
    last: AtomicI64,
    sender: Option<JoinHandle<()>>,
}

impl Lines {
    /// Opens the spool of a run that has not begun, and sends what comes into it every now and then.
    pub(super) fn open(entry: &Entry, limit: u64, client: &Client, every: Duration) -> Result<Self, SpoolError> {
        let (directory, record) = (entry.spool(), entry.record());
        Spool::prepare(&directory)?;
        let owner = Owner { task: record.task.clone(), worker: record.worker.clone() };
        let spool = Arc::new(Mutex::new(Spool::open(&directory, owner, limit)?));
        let sender = tokio::spawn(send(Arc::clone(&spool), client.clone(), every));
        let words = Words::new(entry.directory(), Side::Before);
        Ok(Self { spool, words, last: AtomicI64::new(0), sender: Some(sender) })
    }

    /// Takes over the spool of a run that has ended.
    pub(super) fn adopt(entry: &Entry, spool: Spool) -> Self {
        let words = Words::new(entry.directory(), Side::After);
        Self { spool: Arc::new(Mutex::new(spool)), words, last: AtomicI64::new(0), sender: None }
    }

    /// The spool.
    pub(super) fn spool(&self) -> &Mutex<Spool> {
        &self.spool
    }

    /// Adds a text of one or more lines; what cannot be kept is lost, and nothing else with it.
    pub(super) fn add(&self, level: Level, text: &str) {
        let now = now();
        let last = self.last.fetch_max(now, Ordering::Relaxed);
        let line = Line { timestamp: now.max(last), level, msg: format!("{}\n", text.trim_end()) };
        let _ = locked(&self.spool).append(&line);
        let _ = self.words.add(text);
    }

    /// Sends nothing by itself any more: what is sent twice at a time arrives twice.
    pub(super) async fn hush(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.abort();
            let _ = sender.await;
        }
    }

    /// Lets go of the spool, so that the run can have it.
    pub(super) async fn close(mut self) {
        self.hush().await;
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(sender) = &self.sender {
            sender.abort();
        }
    }
}

async fn send(spool: Arc<Mutex<Spool>>, client: Client, every: Duration) {
    let mut pause = every;
    loop {
        tokio::time::sleep(pause).await;
        pause = if drain(&spool, &client).await.is_ok() { every } else { (pause * 2).min(Duration::from_secs(60)) };
    }
}
