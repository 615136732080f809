//! Typed view of what `agent daemon` and `agent execute` read of the `agent` section besides [`super::Agent`].

use super::{Config, ConfigError};

/// Schedule, deadlines and bounds of the executor. Seconds and mebibytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executor {
    /// `uptime`.
    pub uptime: Vec<String>,
    /// `downtime`.
    pub downtime: Vec<String>,
    /// `build_timeout_sec` (ours).
    pub build_timeout: u64,
    /// `no_progress_timeout_sec` (ours).
    pub no_progress_timeout: u64,
    /// `start_timeout_sec` (ours).
    pub start_timeout: u64,
    /// `run_timeout_sec` (ours).
    pub run_timeout: Option<u64>,
    /// `run_silence_timeout_sec` (ours).
    pub run_silence_timeout: Option<u64>,
    /// `stop_grace_sec` (ours).
    pub stop_grace: u64,
    /// `abort_callback_max_timeout`.
    pub abort_callback: u64,
    /// `console_spool_mb` (ours).
    pub console_spool: u64,
    /// `build_ahead` (ours).
    pub build_ahead: usize,
    /// `task_images_max` (ours).
    pub task_images_max: usize,
    /// `task_images_days` (ours).
    pub task_images_days: u32,
}

impl Config {
    /// How many seconds may at most be taken by what a task does before it is stopped: `agent.abort_callback_max_timeout`.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for a value of the wrong sort.
    pub fn abort_callback(&self) -> Result<u64, ConfigError> {
        Ok(self.number("agent.abort_callback_max_timeout", "a number of seconds")?.unwrap_or(30 * 60))
    }

    /// Schedule, deadlines and bounds of the executor.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for a value of the wrong sort.
    pub fn executor(&self) -> Result<Executor, ConfigError> {
        let list = |key| self.list(key).map(Option::unwrap_or_default);
        let some = |key: &str| -> Result<Option<u64>, ConfigError> {
            let expected = "a number of seconds above zero";
            match self.number(key, expected)? {
                Some(0) => Err(ConfigError::Value { key: key.to_owned(), expected, found: "`0`".to_owned() }),
                found => Ok(found),
            }
        };
        let seconds = |key: &str, default: u64| some(key).map(|it| it.unwrap_or(default));
        Ok(Executor {
            uptime: list("agent.uptime")?,
            downtime: list("agent.downtime")?,
            build_timeout: seconds("agent.build_timeout_sec", 2 * 60 * 60)?,
            no_progress_timeout: seconds("agent.no_progress_timeout_sec", 15 * 60)?,
            start_timeout: seconds("agent.start_timeout_sec", 10 * 60)?,
            run_timeout: some("agent.run_timeout_sec")?,
            run_silence_timeout: some("agent.run_silence_timeout_sec")?,
            stop_grace: seconds("agent.stop_grace_sec", 10)?,
            abort_callback: self.abort_callback()?,
            console_spool: self.number("agent.console_spool_mb", "a number of mebibytes")?.unwrap_or(1024),
            build_ahead: self.number("agent.build_ahead", "a number of images")?.unwrap_or(1),
            task_images_max: self.number("agent.task_images_max", "a number of images")?.unwrap_or(100),
            task_images_days: self.number("agent.task_images_days", "a number of days")?.unwrap_or(14),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn what_is_not_set_has_a_default_and_what_is_wrong_is_named() {
        let config = |text| Config::from_text("test", text, &Environment::default()).unwrap();
        let executor =
            config("agent { uptime = [\"17-20 SUN\", \"1-2 MON\"], stop_grace_sec = 30 }").executor().unwrap();
        assert_eq!(executor.uptime, ["17-20 SUN", "1-2 MON"]);
        assert_eq!((executor.stop_grace, executor.start_timeout), (30, 600));
        assert_eq!((executor.run_timeout, executor.run_silence_timeout), (None, None));
        assert_eq!(executor.abort_callback, 1800);
        assert_eq!(config("agent.abort_callback_max_timeout = 0").abort_callback().unwrap(), 0);
        assert_eq!(config("agent.run_timeout_sec = 60").executor().unwrap().run_timeout, Some(60));
        assert_eq!(config("agent.downtime = 0 SAT").executor().unwrap().downtime, ["0 SAT"]);
        let error = config("agent.build_timeout_sec = 0").executor().unwrap_err().to_string();
        assert!(error.contains("`agent.build_timeout_sec`") && error.contains("`0`"), "{error}");
    }
}
