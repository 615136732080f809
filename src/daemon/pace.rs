//! How often things are asked: with a little chance in it, so that many daemons do not ask in step, and less often while
//! asking fails.

use std::time::Duration;

/// A random time below a limit.
#[must_use]
pub fn random_below(limit: Duration) -> Duration {
    let mut bytes = [0_u8; 4];
    // Without randomness everybody waits the same; that is no reason to fail.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    limit.mul_f64(f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX))
}

/// About this long: a tenth more or less.
#[must_use]
pub fn about(interval: Duration) -> Duration {
    interval.mul_f64(0.9) + random_below(interval.mul_f64(0.2))
}

/// Pauses that double with each failure and are short again after a success.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// From the shortest pause to the longest.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, failures: 0 }
    }

    /// The pause after one more failure.
    #[must_use]
    pub fn failed(&mut self) -> Duration {
        let doubled = self.shortest.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        about(doubled.min(self.longest.max(self.shortest)))
    }

    /// It worked. Whether it had failed before.
    pub fn worked(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }

    /// Whether the last try failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_vary_around_what_they_should_be_and_double_up_to_the_longest() {
        let second = Duration::from_secs(1);
        let times: Vec<Duration> = (0..50).map(|_| about(second)).collect();
        assert!(times.iter().all(|it| (0.89..1.11).contains(&it.as_secs_f64())), "{times:?}");
        assert!(times.iter().any(|it| *it != times[0]));
        let mut backoff = Backoff::new(second, 5 * second);
        let pauses: Vec<u64> = (0..40).map(|_| backoff.failed().as_secs_f64().round() as u64).collect();
        assert_eq!((pauses[0], pauses[1]), (1, 2));
        assert!((4..=6).contains(&pauses[39]));
        assert!(backoff.is_failing() && backoff.worked() && !backoff.worked());
        assert_eq!(backoff.failed().as_secs_f64().round() as u64, 1);
    }
}
