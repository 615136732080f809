//! When a daemon works: `--uptime`, `--downtime`.
//!
//! An item is `<hours> <days>`: hours `a-b` (the end excluded; 0 as an end is 24; `22-6` goes over midnight into the next
//! day) or `a` (until midnight), comma-separated; days `MON`, `MON-FRI`, comma-separated, over the week's end too
//! (`SAT-MON`). Local time.

use std::fmt;

use crate::error::{Explain, Kind};

const DAYS: [&str; 7] = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"];
const WEEK: usize = 7 * 24;

/// The hours of a week in which a daemon works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Hour `24 * day + hour`, Monday's midnight first.
    hours: [bool; WEEK],
}

/// An item that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{item}` is no time to work: {what}")]
pub struct InvalidSchedule {
    item: String,
    what: String,
}

impl Explain for InvalidSchedule {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn hints(&self) -> Vec<String> {
        vec![
            "Write hours and days in one quoted word: \"20-23 SUN,TUE\", \"20 FRI\" (until midnight), \"22-06 MON-FRI\"."
                .to_owned(),
        ]
    }
}

impl Schedule {
    /// Works at these times and at no others.
    ///
    /// # Errors
    /// [`InvalidSchedule`] names the item.
    pub fn uptime<S: AsRef<str>>(items: &[S]) -> Result<Self, InvalidSchedule> {
        let mut hours = [false; WEEK];
        for item in items {
            let text = item.as_ref();
            mark(text, &mut hours).map_err(|what| InvalidSchedule { item: text.to_owned(), what })?;
        }
        Ok(Self { hours })
    }

    /// Works at all times but these.
    ///
    /// # Errors
    /// [`InvalidSchedule`] names the item.
    pub fn downtime<S: AsRef<str>>(items: &[S]) -> Result<Self, InvalidSchedule> {
        Self::uptime(items).map(|it| Self { hours: it.hours.map(|it| !it) })
    }

    /// Whether work is taken in an hour of the week: `day` from Monday as 0, `hour` from 0 to 23.
    #[must_use]
    pub fn is_up(&self, day: u8, hour: u8) -> bool {
        self.hours.get(24 * usize::from(day) + usize::from(hour)).copied().unwrap_or(true)
    }

    /// Whether work is taken at a moment in the local time of this machine.
    #[must_use]
    pub fn is_up_at(&self, moment: &jiff::Zoned) -> bool {
        let day = moment.weekday().to_monday_zero_offset().unsigned_abs();
        self.is_up(day, moment.hour().unsigned_abs())
    }
}

/// The days with their hours, `MON-FRI 0-6,22-24`; days with the same hours together.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |it: usize| &self.hours[24 * it..24 * (it + 1)];
        let mut parts = Vec::new();
        let mut first = 0;
        while first < DAYS.len() {
            let last = (first..DAYS.len()).take_while(|it| day(*it) == day(first)).last().unwrap_or(first);
            if let Some(spans) = spans(day(first)) {
                let days =
                    if first == last { DAYS[first].to_owned() } else { format!("{}-{}", DAYS[first], DAYS[last]) };
                parts.push(format!("{spans} {days}"));
            }
            first = last + 1;
        }
        f.write_str(&if parts.is_empty() { "never".to_owned() } else { parts.join("; ") })
    }
}

fn spans(hours: &[bool]) -> Option<String> {
    let mut found = Vec::new();
    let mut start = None;
    for (hour, up) in hours.iter().copied().chain([false]).enumerate() {
        match (up, start) {
            (true, None) => start = Some(hour),
            (false, Some(from)) => {
                found.push(format!("{from}-{hour}"));
                start = None;
            }
            _ => {}
        }
    }
    (!found.is_empty()).then(|| found.join(","))
}

/// Marks the hours of an item; else what is wrong with it.
fn mark(item: &str, week: &mut [bool; WEEK]) -> Result<(), String> {
    let words: Vec<&str> = item.split_whitespace().collect();
    let [hours, days] = words[..] else {
        return Err(match words.len() {
            0 => "it is empty".to_owned(),
            1 => "it has hours or days, not both".to_owned(),
            _ => "it has more than hours and days".to_owned(),
        });
    };
    let days = days.split(',').map(day_span).collect::<Result<Vec<_>, _>>()?.concat();
    for span in hours.split(',') {
        let (from, until) = hour_span(span)?;
        for day in &days {
            for hour in from..until {
                week[(24 * day + hour) % WEEK] = true;
            }
        }
    }
    Ok(())
}

/// The first hour and the one after the last, which is past 24 where the span goes over midnight.
fn hour_span(text: &str) -> Result<(usize, usize), String> {
    let hour = |text: &str, most: usize| -> Result<usize, String> {
        let number = Some(text).filter(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit()));
        let number = number.and_then(|it| it.parse().ok()).filter(|it| *it <= most);
        number.ok_or_else(|| format!("`{text}` is no hour from 0 to {most}"))
    };
    let Some((from, until)) = text.split_once('-') else { return Ok((hour(text, 23)?, 24)) };
    let (from, until) = (hour(from, 23)?, hour(until, 24)?);
    match if until == 0 { 24 } else { until } {
        until if until == from => Err(format!("`{text}` has no hours")),
        until if until < from => Ok((from, until + 24)),
        until => Ok((from, until)),
    }
}

fn day_span(text: &str) -> Result<Vec<usize>, String> {
    let day = |text: &str| {
        let found = DAYS.iter().position(|it| it.eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("`{text}` is no day ({})", DAYS.join(", ")))
    };
    let Some((from, until)) = text.split_once('-') else { return Ok(vec![day(text)?]) };
    let (from, until) = (day(from)?, day(until)?);
    let length = (until + 7 - from) % 7;
    Ok((from..=from + length).map(|it| it % 7).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(items: &[&str]) -> String {
        Schedule::uptime(items).unwrap().to_string()
    }

    #[test]
    fn the_documented_grammar() {
        for (items, means) in [
            (&["20-23 SUN"][..], "20-23 SUN"),
            (&["20-23 SUN,TUE"], "20-23 TUE; 20-23 SUN"),
            (&["20-23 SUN-TUE"], "20-23 MON-TUE; 20-23 SUN"),
            (&["20 SUN"], "20-24 SUN"),
            (&["20-00,00-08 SUN"], "0-8,20-24 SUN"),
            (&["20-00 SUN", "00-08 MON"], "0-8 MON; 20-24 SUN"),
            (&["17-20 SUN-TUE", "13-22 WED"], "17-20 MON-TUE; 13-22 WED; 17-20 SUN"),
            (&["0 mon-sun"], "0-24 MON-SUN"),
            (&["0-0 SAT"], "0-24 SAT"),
            (&["0-8 MON"], "0-8 MON"),
            (&["20-24 MON"], "20-24 MON"),
        ] {
            assert_eq!(up(items), means, "{items:?}");
        }
    }

    #[test]
    fn a_span_over_midnight_ends_in_the_next_day_and_week() {
        assert_eq!(up(&["22-6 FRI"]), "22-24 FRI; 0-6 SAT");
        assert_eq!(up(&["22-06 SUN"]), "0-6 MON; 22-24 SUN");
        let schedule = Schedule::uptime(&["22-6 SUN"]).unwrap();
        assert!(schedule.is_up(6, 22) && schedule.is_up(0, 0) && schedule.is_up(0, 5));
        assert!(!schedule.is_up(0, 6) && !schedule.is_up(6, 5) && !schedule.is_up(6, 21));
    }

    #[test]
    fn downtime_is_the_rest() {
        let schedule = Schedule::downtime(&["9-17 MON-FRI"]).unwrap();
        assert_eq!(schedule.to_string(), "0-9,17-24 MON-FRI; 0-24 SAT-SUN");
        assert_eq!(Schedule::downtime(&["0 MON-SUN"]).unwrap().to_string(), "never");
    }

    #[test]
    fn a_moment_is_looked_up_in_its_own_day_and_hour() {
        let schedule = Schedule::uptime(&["20-23 SUN"]).unwrap();
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
        let at = |text: &str| schedule.is_up_at(&text.parse::<jiff::Timestamp>().unwrap().to_zoned(zone.clone()));
        // 2026-11-29 is a Sunday; 18:00 UTC is 20:00 there.
        assert!(at("2026-11-29T18:00:00Z") && at("2026-11-29T20:59:59Z"));
        assert!(!at("2026-11-29T17:59:59Z") && !at("2026-11-29T21:00:00Z") && !at("2026-11-28T18:00:00Z"));
    }

    #[test]
    fn what_means_nothing_is_named() {
        for (item, what) in [
            ("", "it is empty"),
            ("20-23", "it has hours or days, not both"),
            ("20-23 SUN TUE", "it has more than hours and days"),
            ("24 SUN", "`24` is no hour from 0 to 23"),
            ("20-25 SUN", "`25` is no hour from 0 to 24"),
            ("+8 SUN", "`+8` is no hour from 0 to 23"),
            ("8-8 SUN", "`8-8` has no hours"),
            ("8-9 SONNTAG", "`SONNTAG` is no day (MON, TUE, WED, THU, FRI, SAT, SUN)"),
            ("8-9 SUN-", "`` is no day (MON, TUE, WED, THU, FRI, SAT, SUN)"),
        ] {
            let error = Schedule::uptime(&[item]).unwrap_err();
            assert_eq!(error.to_string(), format!("`{item}` is no time to work: {what}"));
            assert_eq!(error.kind().exit_code(), 2);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_taken_is_written_so_that_it_means_the_same(text in crate::testing::mangled_text(&[
            "20-23 SUN,TUE", "22-06 MON-FRI", "0 sat-mon", "20-00,00-08 SUN",
        ], "0123456789-, MONSUAT")) {
            if let Ok(schedule) = Schedule::uptime(&[&text]) {
                let written = schedule.to_string();
                let items: Vec<&str> = written.split("; ").filter(|it| !it.is_empty()).collect();
                assert_eq!(Schedule::uptime(&items).as_ref(), Ok(&schedule), "{text:?} as {written:?}");
            }
        }
    }
}
