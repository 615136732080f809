//! Building ahead: while nothing is free, the images of the tasks that are next are built, so that their GPUs do not
//! wait for that later.
//!
//! One build at a time, for the first few tasks only. A build is ended when its task leaves its queue, and when the task
//! is taken: its own build then goes on from the layers that are finished.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;

use super::queues::{Fit, Seen};
use crate::error::Failure;

/// Builds of tasks that wait.
#[derive(Default)]
pub struct Ahead {
    limit: usize,
    wanted: Vec<String>,
    /// Those that are done with, well or badly.
    done: BTreeSet<String>,
    going: Option<(String, BoxFuture<'static, Result<(), Failure>>)>,
}

impl Ahead {
    /// At most so many tasks ahead; zero: none.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Whether anything is ever built ahead.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.limit > 0
    }

    /// Notes what waits, first to be served first: builds of tasks that no longer wait are ended, the next is begun.
    pub fn waiting(&mut self, tasks: Vec<String>, build: impl Fn(String) -> BoxFuture<'static, Result<(), Failure>>) {
        self.wanted = tasks;
        self.wanted.truncate(self.limit);
        self.done.retain(|it| self.wanted.contains(it));
        if self.going.as_ref().is_some_and(|(task, _)| !self.wanted.contains(task)) {
            self.going = None;
        }
        self.next(build);
    }

    /// Ends a build whose task is taken.
    pub fn taken(&mut self, task: &str) {
        self.wanted.retain(|it| it != task);
        self.going.take_if(|it| it.0 == task);
    }

    /// Ends all builds.
    pub fn clear(&mut self) {
        self.wanted.clear();
        self.going = None;
    }

    /// Waits until a build has ended: which, and how. Never, while none goes on.
    pub async fn ended(&mut self) -> (String, Result<(), Failure>) {
        let Some((task, going)) = &mut self.going else { return std::future::pending().await };
        let result = going.await;
        let task = std::mem::take(task);
        self.done.insert(task.clone());
        self.going = None;
        (task, result)
    }

    /// Begins the next build, if none goes on.
    pub fn next(&mut self, build: impl Fn(String) -> BoxFuture<'static, Result<(), Failure>>) {
        if self.going.is_none()
            && let Some(task) = self.wanted.iter().find(|it| !self.done.contains(*it)).cloned()
        {
            self.going = Some((task.clone(), build(task)));
        }
    }
}

/// The tasks that this worker would take, first to be served first.
#[must_use]
pub fn next_tasks(seen: &[Option<Seen>], active: impl Fn(&Seen) -> bool, fits: &[Fit]) -> Vec<String> {
    let served = seen.iter().zip(fits).filter(|(_, fit)| **fit != Fit::Never).filter_map(|(seen, _)| seen.as_ref());
    served.filter(|it| active(it)).flat_map(|it| it.entries.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Counts itself while it lives.
    struct Alive(Arc<AtomicUsize>);

    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[derive(Clone, Default)]
    struct Builder {
        begun: Arc<Mutex<Vec<String>>>,
        alive: Arc<AtomicUsize>,
    }

    impl Builder {
        /// Builds that end at once for tasks with an even name, and never for others.
        fn build(&self, task: String) -> BoxFuture<'static, Result<(), Failure>> {
            self.alive.fetch_add(1, Ordering::SeqCst);
            let alive = Alive(Arc::clone(&self.alive));
            let ends = task.len().is_multiple_of(2);
            self.begun.lock().unwrap().push(task);
            Box::pin(async move {
                let _alive = alive;
                if ends { Ok(()) } else { std::future::pending().await }
            })
        }
    }

    fn tasks(names: &[&str]) -> Vec<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[tokio::test]
    async fn one_build_at_a_time_each_task_once_and_no_further_than_the_limit() {
        let builder = Builder::default();
        let mut ahead = Ahead::new(2);
        let build = |it| builder.build(it);
        ahead.waiting(tasks(&["aa", "bb", "cc"]), build);
        assert_eq!(*builder.begun.lock().unwrap(), ["aa"]);
        for task in ["aa", "bb"] {
            assert_eq!(ahead.ended().await.0, task);
            ahead.next(build);
        }
        ahead.waiting(tasks(&["aa", "bb", "cc"]), build);
        assert_eq!(*builder.begun.lock().unwrap(), ["aa", "bb"]);
        ahead.waiting(tasks(&["bb", "cc"]), build);
        assert_eq!(*builder.begun.lock().unwrap(), ["aa", "bb", "cc"]);
        assert_eq!(builder.alive.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_build_ends_when_its_task_leaves_or_is_taken() {
        let builder = Builder::default();
        let mut ahead = Ahead::new(3);
        let alive = || builder.alive.load(Ordering::SeqCst);
        ahead.waiting(tasks(&["a"]), |it| builder.build(it));
        assert_eq!(alive(), 1);
        ahead.waiting(tasks(&[]), |it| builder.build(it));
        assert_eq!(alive(), 0);
        ahead.waiting(tasks(&["a", "b"]), |it| builder.build(it));
        ahead.taken("b");
        assert_eq!(alive(), 1);
        ahead.taken("a");
        assert_eq!(alive(), 0);
        ahead.waiting(tasks(&["a"]), |it| builder.build(it));
        ahead.clear();
        assert_eq!(alive(), 0);
        let mut off = Ahead::new(0);
        off.waiting(tasks(&["a"]), |it| builder.build(it));
        assert_eq!((off.is_on(), alive()), (false, 0));
    }

    #[test]
    fn only_what_this_worker_serves_is_built_ahead() {
        let queue = |task: &str, tag: &str| Some(Seen { tags: tasks(&[tag]), entries: tasks(&[task]) });
        let seen = [queue("a", ""), queue("b", "off"), None, queue("c", ""), queue("d", "")];
        let fits = [Fit::Later, Fit::Later, Fit::Later, Fit::Never, Fit::Now];
        assert_eq!(next_tasks(&seen, |it| it.tags[0] != "off", &fits), ["a", "d"]);
    }
}
