//! What the server is told of a unit's end: a function of what the server says, how the unit ended and what was wanted
//! of it. Nothing is asked or sent here.

use super::journal::{Ending, Record, Verdict, Wish, WishedBy};
use crate::clearml::tasks::State;
use crate::error::Kind;
use crate::run::Outcome;

/// What is known when a unit has ended.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The task on the server; `None` for one that is gone.
    pub state: Option<&'a State>,
    /// Whether the task was given to another run meanwhile.
    pub taken_over: bool,
    /// How the unit ended.
    pub end: &'a Ending,
    /// What was wanted of it.
    pub wish: Option<&'a Wish>,
    /// How often the machinery has failed this task before.
    pub attempt: u32,
    /// How often it is tried again.
    pub retries: u32,
}

/// What the server is to be told.
#[must_use]
pub fn settle(known: &Known<'_>) -> Verdict {
    let leave = |status: &str| Verdict::Leave { status: status.to_owned() };
    let Some(state) = known.state else { return leave("deleted") };
    if known.taken_over {
        return leave("run by another worker");
    }
    // Whatever it became meanwhile was somebody's word, the program's own included.
    if state.status != "in_progress" {
        return leave(&state.status);
    }
    match known.wish {
        Some(Wish::Leave { status }) => return leave(status),
        Some(Wish::Stop { by }) => return stopped(stop_reason(*by)),
        Some(Wish::Limit { reason }) => return Verdict::Failed { reason: reason.clone() },
        None if state.asks_to_stop() && !is_success(known.end) => return stopped("task was stopped by tasks.stop"),
        None => {}
    }
    match known.end {
        end if is_success(end) => Verdict::Completed,
        Ending::Stopped | Ending::Aborted { .. } => stopped("user abort"),
        end => {
            let reason = reason(end);
            if is_passing(end) && known.attempt < known.retries {
                return Verdict::Again { reason };
            }
            Verdict::Failed { reason }
        }
    }
}

/// Why a task is stopped, as the server and its console are told.
pub(super) fn stop_reason(by: WishedBy) -> &'static str {
    match by {
        WishedBy::Server => "task was stopped by tasks.stop",
        WishedBy::User => "user abort",
    }
}

fn stopped(reason: &str) -> Verdict {
    Verdict::Stopped { reason: reason.to_owned() }
}

fn is_success(end: &Ending) -> bool {
    matches!(end, Ending::Ran { outcome: Outcome::Exited { code: 0, .. }, .. })
}

/// Whether another try may succeed: the machinery failed, not the task.
#[must_use]
pub fn is_passing(end: &Ending) -> bool {
    match end {
        Ending::Ran { outcome: Outcome::Lost { .. }, .. } => true,
        Ending::Ran { lost_gpu, outcome } => {
            lost_gpu.is_some()
                && !matches!(outcome, Outcome::Exited { code: 0, .. } | Outcome::Exited { out_of_memory: true, .. })
        }
        Ending::Failed { passing, .. } => *passing,
        Ending::Stopped | Ending::Aborted { .. } => false,
    }
}

/// Whether the machinery failed, and may fail whatever comes next; whether or not the task is tried again.
#[must_use]
pub fn is_of_machinery(end: &Ending) -> bool {
    match end {
        Ending::Failed { code, passing, .. } => {
            *passing
                || Kind::of_exit_code(*code).is_some_and(|it| {
                    matches!(it, Kind::Unreachable | Kind::System | Kind::Space | Kind::Sandbox | Kind::Config)
                })
        }
        end => is_passing(end),
    }
}

/// The same end, with no other try after it.
#[must_use]
pub fn for_good(end: Ending) -> Ending {
    let reason = reason(&end);
    match end {
        Ending::Failed { code, .. } => Ending::Failed { reason, passing: false, code },
        Ending::Ran { outcome: Outcome::Lost { .. }, .. } => {
            Ending::Failed { reason, passing: false, code: crate::error::Kind::System.exit_code() }
        }
        end @ (Ending::Ran { .. } | Ending::Aborted { .. } | Ending::Stopped) => end,
    }
}

/// How a unit ended, in a few words.
#[must_use]
pub fn reason(end: &Ending) -> String {
    match end {
        Ending::Ran { outcome: Outcome::Exited { code: 0, .. }, .. } => "worker execution done".to_owned(),
        Ending::Ran { outcome: Outcome::Exited { code, out_of_memory: true }, .. } => {
            format!("out of memory: the kernel ended the program (exit code {code})")
        }
        Ending::Ran { lost_gpu: Some(gpu), outcome: Outcome::Exited { code, .. } } => {
            format!("GPU lost: {gpu} (exit code {code})")
        }
        Ending::Ran { outcome: Outcome::Exited { code, .. }, .. } => match signal(*code) {
            Some(name) => format!("worker execution exit code {code}: ended by {name}"),
            None => format!("worker execution exit code {code}"),
        },
        Ending::Ran { outcome: Outcome::Lost { reason }, .. } => format!("the run was lost: {reason}"),
        Ending::Failed { reason, .. } => reason.clone(),
        Ending::Stopped | Ending::Aborted { .. } => "user abort".to_owned(),
    }
}

/// The signal a shell would tell by an exit code.
fn signal(code: i32) -> Option<&'static str> {
    Some(match code - 128 {
        2 => "SIGINT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// The exit code for whoever waits for a unit: the program's, else the failure's own.
#[must_use]
pub fn exit_code(record: &Record) -> u8 {
    match record.end.as_ref() {
        Some(Ending::Ran { outcome: Outcome::Exited { code, .. }, .. }) => u8::try_from(*code).unwrap_or(1),
        Some(Ending::Ran { outcome: Outcome::Lost { .. }, .. }) => crate::error::Kind::System.exit_code(),
        Some(Ending::Failed { code, .. } | Ending::Aborted { code }) => *code,
        Some(Ending::Stopped) | None => crate::error::Kind::Interrupted.exit_code(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(code: i32) -> Ending {
        Ending::Ran { outcome: Outcome::Exited { code, out_of_memory: false }, lost_gpu: None }
    }

    fn lost() -> Ending {
        Ending::Ran { outcome: Outcome::Lost { reason: "the host was restarted".to_owned() }, lost_gpu: None }
    }

    fn verdict(status: &str, message: &str, end: &Ending, wish: Option<&Wish>, attempt: u32) -> Verdict {
        let state = State { status: status.to_owned(), message: message.to_owned() };
        let state = (status != "gone").then_some(&state);
        settle(&Known { state, taken_over: message == "theirs", end, wish, attempt, retries: 1 })
    }

    #[test]
    fn a_program_is_judged_by_its_end() {
        let failed = |reason: &str| Verdict::Failed { reason: reason.to_owned() };
        assert_eq!(verdict("in_progress", "", &ran(0), None, 0), Verdict::Completed);
        assert_eq!(verdict("in_progress", "", &ran(3), None, 0), failed("worker execution exit code 3"));
        let segfault = failed("worker execution exit code 139: ended by SIGSEGV");
        assert_eq!(verdict("in_progress", "", &ran(139), None, 0), segfault);
        assert_eq!(verdict("in_progress", "", &Ending::Aborted { code: 130 }, None, 0), stopped("user abort"));
        let memory = Ending::Ran { outcome: Outcome::Exited { code: 137, out_of_memory: true }, lost_gpu: None };
        let reason = "out of memory: the kernel ended the program (exit code 137)";
        assert_eq!(verdict("in_progress", "", &memory, None, 0), failed(reason));
    }

    #[test]
    fn the_machinery_is_tried_again_and_programs_are_not() {
        let gpu = Ending::Ran {
            outcome: Outcome::Exited { code: 1, out_of_memory: false },
            lost_gpu: Some("GPU-1 is not there any more".to_owned()),
        };
        let failed = |passing| Ending::Failed { reason: "the engine is gone".to_owned(), passing, code: 69 };
        for (end, again) in [(lost(), true), (gpu, true), (failed(true), true), (failed(false), false), (ran(1), false)]
        {
            let first = verdict("in_progress", "", &end, None, 0);
            assert_eq!(matches!(first, Verdict::Again { .. }), again, "{end:?}");
            let last = verdict("in_progress", "", &end, None, 1);
            assert!(matches!(last, Verdict::Failed { .. }), "{end:?}: {last:?}");
        }
        assert_eq!(reason(&lost()), "the run was lost: the host was restarted");
    }

    #[test]
    fn what_may_still_run_is_not_tried_again() {
        for end in [lost(), Ending::Failed { reason: "the engine is gone".to_owned(), passing: true, code: 69 }] {
            let last = for_good(end.clone());
            assert!(is_passing(&end) && !is_passing(&last));
            assert_eq!(reason(&last), reason(&end));
        }
        assert_eq!(for_good(ran(3)), ran(3));
    }

    #[test]
    fn what_was_wanted_counts_before_how_it_ended() {
        let (server, user) = (Wish::Stop { by: WishedBy::Server }, Wish::Stop { by: WishedBy::User });
        for end in [ran(143), ran(0), lost(), Ending::Stopped] {
            let by_server = verdict("in_progress", "stopping", &end, Some(&server), 0);
            assert_eq!(by_server, stopped("task was stopped by tasks.stop"), "{end:?}");
            assert_eq!(verdict("in_progress", "", &end, Some(&user), 0), stopped("user abort"), "{end:?}");
        }
        // Asked for while it ended: what came first.
        assert_eq!(verdict("in_progress", "stopping", &ran(0), None, 0), Verdict::Completed);
        assert_eq!(verdict("in_progress", "stopping", &ran(1), None, 0), stopped("task was stopped by tasks.stop"));
    }

    #[test]
    fn what_somebody_else_decided_stands() {
        let leave = |status: &str| Verdict::Leave { status: status.to_owned() };
        for status in ["completed", "failed", "stopped", "created", "queued", "closed", "published"] {
            assert_eq!(verdict(status, "", &ran(1), None, 0), leave(status));
            let server = Wish::Stop { by: WishedBy::Server };
            assert_eq!(verdict(status, "", &ran(143), Some(&server), 0), leave(status));
        }
        assert_eq!(verdict("gone", "", &ran(0), None, 0), leave("deleted"));
        assert_eq!(verdict("in_progress", "theirs", &ran(0), None, 0), leave("run by another worker"));
        let reset = Wish::Leave { status: "created".to_owned() };
        assert_eq!(verdict("in_progress", "", &ran(143), Some(&reset), 0), leave("created"));
    }
}
