//! When a daemon works: `--uptime`, `--downtime`.
//!
//! An item is `<hours> <days>`: hours `a-b` (the end excluded; 0 as an end is 24; `22-6` goes over midnight into the next
//! day) or `a` (until midnight), comma-separated; days `MON`, `MON-FRI`, comma-separated. Local time.

/// The hours of a week in which a daemon works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Hour `24 * day + hour`, Monday's midnight first.
    hours: [bool; 7 * 24],
}

impl Schedule {
    /// Whether work is taken in an hour of the week: `day` from Monday as 0, `hour` from 0 to 23.
    #[must_use]
    pub fn is_up(&self, day: u8, hour: u8) -> bool {
        self.hours.get(24 * usize::from(day) + usize::from(hour)).copied().unwrap_or(true)
    }
}
