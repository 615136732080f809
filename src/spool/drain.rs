//! From the spool to the server.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Batch, Flight, Spool, SpoolError};
use crate::clearml::events::{self, Source};
use crate::clearml::{ApiError, Client};
use crate::digest::Digest;
use crate::error::{Explain, Kind};

/// About how many bytes of text go in one batch.
const BATCH: usize = 512 * 1024;
/// How many of the server's last events are looked through for a batch that may have arrived.
const LOOKED_THROUGH: usize = 100;
/// How long after it was sent a batch may still be on its way: a server works on what it has heard though nobody waits for
/// the answer any more, and one with an index shows it a little later.
const LANDING: Duration = Duration::from_secs(5);
/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// Why lines stay where they are.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The server did not take them.
    #[error(transparent)]
    Server(#[from] ApiError),
    /// The spool cannot be read.
    #[error(transparent)]
    Spool(SpoolError),
}

impl Explain for DrainError {
    fn kind(&self) -> Kind {
        match self {
            Self::Server(error) => error.kind(),
            Self::Spool(error) => error.kind(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Server(error) => error.hints(),
            Self::Spool(error) => error.hints(),
        }
    }
}

/// Sends all that waits; answers how many lines that was. Others may append meanwhile: the spool is only locked between two calls.
///
/// # Errors
/// [`DrainError`]; what was not sent stays for the next time.
pub async fn drain(spool: &Mutex<Spool>, client: &Client) -> Result<usize, DrainError> {
    let mut drained = 0;
    let (owner, flight) = with(spool, |it| Ok((it.owner().clone(), it.flight().cloned())))?;
    let source = Source { task: &owner.task, worker: &owner.worker };
    if let Some(flight) = flight
        && landed(client, &owner.task, &flight).await?
    {
        with(spool, |it| it.advance(flight.to, flight.timestamp))?;
    }
    loop {
        let next = with(spool, |it| {
            let batch = it.next(BATCH)?;
            batch.as_ref().map_or(Ok(()), |batch| it.sending(batch))?;
            Ok(batch)
        })?;
        let Some(batch) = next else { return Ok(drained) };
        send(client, source, &batch).await?;
        with(spool, |it| it.sent(&batch))?;
        drained += batch.lines.len();
    }
}

async fn send(client: &Client, source: Source<'_>, batch: &Batch) -> Result<(), ApiError> {
    match events::send_lines(client, source, &batch.events()).await {
        // Nothing of it was stored, and nothing of it ever will be: waiting would only lose what follows.
        Err(ApiError::Refused { code: 400, .. }) => Ok(()),
        outcome => outcome,
    }
}

/// Whether a batch that was on its way has arrived; comes when it cannot any more.
async fn landed(client: &Client, task: &str, flight: &Flight) -> Result<bool, ApiError> {
    loop {
        if arrived(client, task, flight).await? {
            return Ok(true);
        }
        // A clock that was set back is no reason to wait.
        let left = LANDING.saturating_sub(flight.since.elapsed().unwrap_or(LANDING));
        if left.is_zero() {
            return Ok(false);
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// Whether the server has the last event of a batch that was on its way when its process was killed.
async fn arrived(client: &Client, task: &str, flight: &Flight) -> Result<bool, ApiError> {
    let query = json!({ "task": task, "order": "desc", "navigate_earlier": true, "batch_size": LOOKED_THROUGH });
    let data = client.call("events.get_task_log", &query).await?;
    let events = data.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(events.iter().any(|event| {
        let msg = event.get("msg").and_then(Value::as_str).unwrap_or_default();
        event.get("timestamp").and_then(Value::as_i64) == Some(flight.timestamp)
            && Digest::of(msg).hex() == flight.digest
    }))
}

fn with<T>(spool: &Mutex<Spool>, work: impl FnOnce(&mut Spool) -> std::io::Result<T>) -> Result<T, DrainError> {
    let mut spool = spool.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    work(&mut spool).map_err(|source| DrainError::Spool(SpoolError::Io { path: spool.directory.clone(), source }))
}
