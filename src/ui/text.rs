//! Numbers as people read them, and texts as a terminal may.

use std::time::Duration;

/// A text that came from elsewhere, without what steers a terminal: control characters stand as `�`.
#[must_use]
pub fn harmless(text: &str) -> String {
    let shown = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    text.replace("\r\n", "\n").chars().map(shown).collect()
}

/// As much of a text as fits into so many characters.
#[must_use]
pub fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Bytes in binary units with three digits: `12.3 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A duration: `0.12 s`, `12.3 s`, `3 min 5 s`.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        it if it < 10.0 => format!("{it:.2} s"),
        it if it < 120.0 => format!("{it:.1} s"),
        _ => format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60),
    }
}

/// Seconds as [`duration`] shows them.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_elsewhere_steers_no_terminal() {
        assert_eq!(harmless("a\u{1b}]0;t\u{7}\tb\r\nc\u{9b}2J"), "a\u{fffd}]0;t\u{fffd}\tb\nc\u{fffd}2J");
    }

    #[test]
    fn sizes_and_durations() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536 << 10, "1.50 MiB"),
            (120 << 20, "120 MiB"),
            (1000 << 20, "0.98 GiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(seconds(0.123), "0.12 s");
        assert_eq!(seconds(61.0), "61.0 s");
        assert_eq!(seconds(185.0), "3 min 5 s");
    }
}
