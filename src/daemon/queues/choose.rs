//! Which queue is served next: pure decisions over what a look showed.

use super::Seen;

/// A tag that wakes a queue's workers or sends them to sleep, whatever their schedule says.
const ON: &str = "force_workers:on";
const OFF: &str = "force_workers:off";

/// Whether a queue's next task would have what it needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Yes.
    Now,
    /// When something that runs here has ended.
    Later,
    /// When something that others run has ended.
    Foreign,
    /// Never on this worker.
    Never,
}

/// Where the search for a task begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    fair: bool,
    first: usize,
}

impl Turn {
    /// By priority, or in turns (`--order-fairness`).
    #[must_use]
    pub fn new(fair: bool) -> Self {
        Self { fair, first: 0 }
    }

    /// Notes which queue was served: with turns, the one after it is next.
    pub fn served(&mut self, queue: usize) {
        self.first = if self.fair { queue + 1 } else { 0 };
    }
}

/// What a queue's tags say of whether it is served, if they do.
#[must_use]
pub fn forced_by_tags(tags: &[String]) -> Option<bool> {
    let tagged = |wanted: &str| tags.iter().any(|it| it == wanted);
    if tagged(OFF) { Some(false) } else { tagged(ON).then_some(true) }
}

/// Whether a queue is served now. Its tags come first, then the worker's property `force`, then the schedule.
#[must_use]
pub fn active(tags: &[String], forced: Option<bool>, scheduled: bool) -> bool {
    forced_by_tags(tags).or(forced).unwrap_or(scheduled)
}

/// The queue whose first task is to be taken, if there is one. A queue that waits for what our own runs have keeps those
/// behind it waiting too: else small tasks would keep a large one out for ever. One that waits for others does not.
#[must_use]
pub fn choose(seen: &[Option<Seen>], active: impl Fn(&Seen) -> bool, fits: &[Fit], turn: Turn) -> Option<usize> {
    let count = seen.len();
    let order = (0..count).map(|step| (turn.first + step) % count);
    for queue in order {
        let waits = seen[queue].as_ref().is_some_and(|it| !it.entries.is_empty() && active(it));
        match fits.get(queue) {
            _ if !waits => {}
            Some(Fit::Now) => return Some(queue),
            Some(Fit::Later) => return None,
            Some(Fit::Foreign | Fit::Never) | None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(entries: &[usize]) -> Vec<Option<Seen>> {
        let queue = |count: &usize| Seen { tags: Vec::new(), entries: vec!["t".to_owned(); *count] };
        entries.iter().map(|it| Some(queue(it))).collect()
    }

    #[test]
    fn queues_go_by_priority_or_in_turns() {
        let queues = seen(&[2, 0, 5]);
        let fits = [Fit::Now; 3];
        let served = |fair| {
            let mut turn = Turn::new(fair);
            let mut served = Vec::new();
            for _ in 0..4 {
                let queue = choose(&queues, |_| true, &fits, turn).unwrap();
                turn.served(queue);
                served.push(queue);
            }
            served
        };
        assert_eq!(served(false), [0, 0, 0, 0]);
        assert_eq!(served(true), [0, 2, 0, 2]);
        assert_eq!(choose(&[None, None], |_| true, &fits, Turn::default()), None);
        assert_eq!(choose(&[], |_| true, &fits, Turn::default()), None);
    }

    #[test]
    fn a_queue_that_waits_for_room_is_not_overtaken_and_one_that_never_fits_is_passed_over() {
        let queues = seen(&[1, 1]);
        let chosen = |first| choose(&queues, |_| true, &[first, Fit::Now], Turn::default());
        let all = [Fit::Now, Fit::Later, Fit::Foreign, Fit::Never];
        assert_eq!(all.map(chosen), [Some(0), None, Some(1), Some(1)]);
        // One without tasks keeps nobody waiting.
        assert_eq!(choose(&seen(&[0, 1]), |_| true, &[Fit::Later, Fit::Now], Turn::default()), Some(1));
    }

    #[test]
    fn tags_come_before_the_property_and_the_property_before_the_schedule() {
        let tags = |tag: &str| vec!["other".to_owned(), tag.to_owned()];
        for (tag, forced, scheduled, expected) in [
            (OFF, Some(true), true, false),
            (ON, Some(false), false, true),
            ("", Some(false), true, false),
            ("", Some(true), false, true),
            ("", None, true, true),
            ("", None, false, false),
        ] {
            assert_eq!(active(&tags(tag), forced, scheduled), expected, "{tag} {forced:?} {scheduled}");
        }
        let mut queues = seen(&[1, 1]);
        queues[0].as_mut().unwrap().tags = tags(OFF);
        let fits = [Fit::Now; 2];
        assert_eq!(choose(&queues, |it| active(&it.tags, None, true), &fits, Turn::default()), Some(1));
    }
}
