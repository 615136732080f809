//! How a run ended, from what its engine tells of the container and what the in-image program left of its own.

use crate::run::Outcome;
use crate::spool::{EndCause, LeftEnd};

/// What an engine gives a container that ended while it was not there to see it.
const UNSEEN: i32 = 255;
/// The exit code of what somebody killed.
const KILLED: i32 = 137;

/// Where a run was, and what was wanted of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Whether it was a container of an engine, with a control group of its own.
    pub(super) contained: bool,
    /// Whether somebody asked it to end.
    pub(super) asked: bool,
}

/// The truth about a run's end. A program may have ended, and said how, before its container went down with the engine or
/// the machine; and not every engine hears that the kernel killed for memory.
pub(super) fn best(told: Outcome, left: LeftEnd, place: Place) -> Outcome {
    let Place { contained, asked } = place;
    match (told, left) {
        // The daemon has not: the engine or the machine went down in good order, or somebody stopped the container. How
        // far the program had come nobody knows, whatever it exits with.
        (Outcome::Exited { out_of_memory: false, .. } | Outcome::Lost { .. }, LeftEnd::End(end))
            if end.cause == EndCause::Asked && !asked =>
        {
            Outcome::Lost { reason: "it was asked to end from outside".to_owned() }
        }
        (Outcome::Exited { code: code @ 1.., out_of_memory }, LeftEnd::End(end)) => {
            let unseen = code == UNSEEN || (code == KILLED && !asked);
            let code = if unseen { i32::from(end.code) } else { code };
            // Without a container the group may be that of other runs as well.
            Outcome::Exited { code, out_of_memory: out_of_memory || (contained && end.out_of_memory) }
        }
        (Outcome::Lost { .. }, LeftEnd::End(end)) => {
            Outcome::Exited { code: i32::from(end.code), out_of_memory: contained && end.out_of_memory }
        }
        // A program that exits so itself has its end left.
        (Outcome::Exited { code: UNSEEN, out_of_memory: false }, LeftEnd::Promised) if contained => {
            Outcome::Lost { reason: "its container went down with the engine or the machine".to_owned() }
        }
        (told, _) => told,
    }
}

/// The exit code of a program that said by its end that its user had broken it off.
pub(super) fn aborted(outcome: &Outcome, left: LeftEnd) -> Option<u8> {
    match (outcome, left) {
        (Outcome::Exited { code, out_of_memory: false }, LeftEnd::End(end))
            if end.cause == EndCause::Aborted && *code == i32::from(end.code) =>
        {
            Some(end.code)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::ProgramEnd;

    const CONTAINER: Place = Place { contained: true, asked: false };
    const NATIVE: Place = Place { contained: false, asked: false };

    fn exited(code: i32) -> Outcome {
        Outcome::Exited { code, out_of_memory: false }
    }

    fn lost() -> Outcome {
        Outcome::Lost { reason: "gone".to_owned() }
    }

    fn end(code: u8) -> LeftEnd {
        LeftEnd::End(ProgramEnd { code, out_of_memory: false, cause: EndCause::Itself })
    }

    #[test]
    fn a_container_is_lost_where_its_program_did_not_live_to_say_how_it_ended() {
        let Outcome::Lost { reason } = best(exited(255), LeftEnd::Promised, CONTAINER) else { panic!("it is told") };
        assert_eq!(reason, "its container went down with the engine or the machine");
        // Of nothing nothing follows, and natively nobody gives that code but the program.
        assert_eq!(best(exited(255), LeftEnd::Nothing, CONTAINER), exited(255));
        assert_eq!(best(exited(255), end(255), CONTAINER), exited(255));
        assert_eq!(best(exited(255), LeftEnd::Promised, NATIVE), exited(255));
        assert_eq!(best(exited(127), LeftEnd::Promised, CONTAINER), exited(127));
    }

    #[test]
    fn a_program_that_had_ended_ended_as_it_said() {
        for place in [CONTAINER, NATIVE] {
            for told in [exited(255), exited(137), lost()] {
                assert_eq!(best(told.clone(), end(0), place), exited(0), "{told:?}");
                assert_eq!(best(told.clone(), end(3), place), exited(3), "{told:?}");
            }
            assert_eq!(best(exited(1), end(0), place), exited(1));
            assert_eq!(best(exited(0), end(3), place), exited(0));
            assert_eq!(best(exited(137), LeftEnd::Promised, place), exited(137));
            assert_eq!(best(lost(), LeftEnd::Promised, place), lost());
            assert_eq!(best(exited(137), end(0), Place { asked: true, ..place }), exited(137));
        }
    }

    #[test]
    fn what_somebody_else_asked_to_end_was_cut_short() {
        for (code, place) in [(0, CONTAINER), (143, CONTAINER), (0, NATIVE)] {
            let left = LeftEnd::End(ProgramEnd { code, out_of_memory: false, cause: EndCause::Asked });
            let found = best(exited(i32::from(code)), left, place);
            assert_eq!(found, Outcome::Lost { reason: "it was asked to end from outside".to_owned() });
            // We have: that is what the task's end is told with.
            assert_eq!(best(exited(i32::from(code)), left, Place { asked: true, ..place }), exited(i32::from(code)));
        }
    }

    #[test]
    fn what_its_user_broke_off_is_told_by_the_program_alone() {
        let left = LeftEnd::End(ProgramEnd { code: 130, out_of_memory: false, cause: EndCause::Aborted });
        for told in [exited(130), exited(255), lost()] {
            assert_eq!(aborted(&best(told, left, CONTAINER), left), Some(130));
        }
        // Another code is the container's: it was killed after that.
        assert_eq!(aborted(&exited(137), left), None);
        assert_eq!(aborted(&Outcome::Exited { code: 130, out_of_memory: true }, left), None);
        assert_eq!(aborted(&exited(130), end(130)), None);
        assert_eq!(aborted(&lost(), left), None);
    }

    #[test]
    fn what_was_killed_for_memory_in_a_group_of_many_is_no_runs_own() {
        let killed = |out_of_memory| Outcome::Exited { code: 137, out_of_memory };
        let left = LeftEnd::End(ProgramEnd { code: 137, out_of_memory: true, cause: EndCause::Itself });
        assert_eq!(best(killed(false), left, CONTAINER), killed(true));
        assert_eq!(best(killed(false), left, NATIVE), killed(false));
        // What its monitor tells is of the run's own group.
        assert_eq!(best(killed(true), end(137), NATIVE), killed(true));
        assert_eq!(best(lost(), left, NATIVE), killed(false));
    }
}
