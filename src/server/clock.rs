//! Times as a ClearML server writes them: microseconds in answers to changes, milliseconds once stored.

use jiff::Timestamp;

/// The time of a request; every date it writes is this one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment(Timestamp);

impl Moment {
    /// Now.
    pub(super) fn now() -> Self {
        Self(Timestamp::now())
    }

    /// As it stands in the answer to a change: microseconds.
    pub(super) fn exact(self) -> String {
        write(self.0)
    }

    /// As it is stored and read back: milliseconds.
    pub(super) fn stored(self) -> String {
        write(Timestamp::from_millisecond(self.millis()).unwrap_or_default())
    }

    /// Milliseconds since 1970.
    pub(super) fn millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// Seconds since 1970.
    pub(super) fn seconds(self) -> i64 {
        self.0.as_second()
    }
}

/// Six digits of a second's fraction, or none when it is whole: what Python's `isoformat` writes.
fn write(time: Timestamp) -> String {
    let form =
        if time.subsec_nanosecond() / 1000 == 0 { "%Y-%m-%dT%H:%M:%S+00:00" } else { "%Y-%m-%dT%H:%M:%S%.6f+00:00" };
    time.strftime(form).to_string()
}

/// Milliseconds since 1970 as Elasticsearch wrote them: `2026-11-21T21:41:07.452Z`.
pub(super) fn event_time(millis: i64) -> String {
    let time = Timestamp::from_millisecond(millis).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Milliseconds since 1970 of a date as clients send it: with or without `T`, fraction and zone (UTC when absent).
pub(super) fn parse_millis(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_millisecond());
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_and_read_as_the_original_does() {
        let moment = Moment("2026-11-21T21:07:38.286892Z".parse().unwrap());
        assert_eq!(moment.exact(), "2026-11-21T21:07:38.286892+00:00");
        assert_eq!(moment.stored(), "2026-11-21T21:07:38.286000+00:00");
        assert_eq!(Moment("2026-11-21T21:12:54.000900Z".parse().unwrap()).stored(), "2026-11-21T21:12:54+00:00");
        assert_eq!(event_time(moment.millis()), "2026-11-21T21:07:38.286Z");
        assert_eq!(parse_millis(&moment.stored()), Some(moment.millis()));
        assert_eq!(parse_millis("2026-11-21 21:07:38.286"), Some(moment.millis()));
        assert_eq!(parse_millis("2026-11-21"), Some(1_795_219_200_000));
        assert_eq!(parse_millis("yesterday"), None);
    }
}
