//! Runs that take too long, or are silent for too long: `agent.run_timeout_sec`, `agent.run_silence_timeout_sec`.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::Unit;
use crate::run::Found;
use crate::spool::{LeftEnd, last_output};

impl Unit {
    /// Comes when the run takes too long, or has printed nothing for too long; what to say of it.
    pub(super) async fn overdue(&self) -> String {
        let limits = self.executor.settings.limits;
        let began =
            SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(self.record().since).unwrap_or_default());
        let over = |since: SystemTime, limit: Duration| since.elapsed().is_ok_and(|it| it >= limit);
        if limits.run.is_none() && limits.quiet.is_none() {
            return std::future::pending().await;
        }
        loop {
            // Of a run whose output is not kept nobody knows when it printed.
            let silent = |limit| last_output(&self.entry.spool()).is_some_and(|it| over(it.max(began), limit));
            let late = if let Some(limit) = limits.run.filter(|it| over(began, *it)) {
                Some(format!("the run was not over within {} s", limit.as_secs()))
            } else {
                let limit = limits.quiet.filter(|it| silent(*it));
                limit.map(|it| format!("the run printed nothing for {} s", it.as_secs()))
            };
            if let Some(reason) = late
                && self.goes_on().await
            {
                return reason;
            }
            sleep(self.pace.poll).await;
        }
    }

    /// Whether the program is known to run: it may have ended while nobody attended it.
    async fn goes_on(&self) -> bool {
        match self.answered(self.executor.engine.find(&self.record().run)).await {
            Ok(Found::Running) => !matches!(LeftEnd::of(&self.entry.spool()), LeftEnd::End(_)),
            Ok(Found::Ended(_)) => false,
            Ok(Found::Absent) | Err(_) => self.is_alive(),
        }
    }
}
