//! `agent logs`: the console of runs of this machine, from this machine's disk.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Context, blocking};
use crate::cli::logs::LogsArgs;
use crate::daemon::Journal;
use crate::daemon::journal::{Phase, Record, Side, Verdict, Words};
use crate::error::{Explain, Failure, Kind};
use crate::settings::execution::state_directory;
use crate::spool::OutputReader;
use crate::ui::{Align, Table, Ui};

/// How often a run that goes on is looked at for new lines.
const LOOK: Duration = Duration::from_millis(200);
/// How much of an output is read first in search of its last lines.
const LAST: u64 = 64 << 10;

/// Nothing is kept of a task.
#[derive(Debug, thiserror::Error)]
enum NoLog {
    #[error("no run of task `{0}` is kept on this machine")]
    Absent(String),
    #[error("`{text}` is the beginning of several tasks: {}", tasks.join(", "))]
    Ambiguous { text: String, tasks: Vec<String> },
}

impl Explain for NoLog {
    fn kind(&self) -> Kind {
        match self {
            Self::Absent(_) => Kind::NotFound,
            Self::Ambiguous { .. } => Kind::Usage,
        }
    }

    fn hints(&self) -> Vec<String> {
        vec![match self {
            Self::Absent(_) => {
                "`agent logs` lists what is kept here; the server has the console of all tasks.".to_owned()
            }
            Self::Ambiguous { .. } => "Write more of the id.".to_owned(),
        }]
    }
}

/// Shows a run's console, or what runs there are.
pub(super) async fn run(args: LogsArgs, context: &Context) -> Result<u8, Failure> {
    let journal = Journal::open(&state_directory(&context.session.environment))?;
    let ui = context.ui.clone();
    blocking(move || {
        let found = journal.all()?;
        for error in found.unreadable {
            ui.reporter().warning(error.to_string());
        }
        match &args.task {
            None => list(&found.units, &ui),
            Some(task) => show(&journal, choose(task, found.units)?, &args, &ui),
        }
    })
    .await
}

/// The newest run of the task; the runs are newest first.
fn choose(task: &str, runs: Vec<Record>) -> Result<Record, NoLog> {
    let mut tasks: Vec<String> = runs.iter().map(|it| it.task.clone()).filter(|it| it.starts_with(task)).collect();
    tasks.sort();
    tasks.dedup();
    if let Some(exact) = tasks.iter().find(|it| *it == task) {
        tasks = vec![exact.clone()];
    }
    match &tasks[..] {
        [one] => runs.into_iter().find(|it| it.task == *one).ok_or_else(|| NoLog::Absent(task.to_owned())),
        [] => Err(NoLog::Absent(task.to_owned())),
        _ => Err(NoLog::Ambiguous { text: task.to_owned(), tasks }),
    }
}

fn show(journal: &Journal, mut record: Record, args: &LogsArgs, ui: &Ui) -> Result<u8, Failure> {
    let (spool, unit) = (journal.spool(&record.run), journal.directory(&record.run));
    let mut before = Words::new(&unit, Side::Before);
    let mut tail = args.tail;
    if record.phase < Phase::Run {
        ui.say(&format!("task {} is {}", record.task, record.phase.as_str()));
    }
    let mut reader = match args.tail {
        None => OutputReader::new(&spool),
        Some(lines) => {
            let (reader, tail) = last_lines(&spool, lines)?;
            ui.write(&tail)?;
            reader
        }
    };
    loop {
        // Looked at first: what is written before a run is over is read after that.
        let over = record.phase == Phase::Done || !args.follow;
        tell(&mut before, tail.take(), ui)?;
        while let Some(piece) = reader.read_next()? {
            if piece.missing > 0 {
                ui.say(&format!("{} bytes before this are not kept any more", piece.missing));
            }
            ui.write(&piece.bytes)?;
        }
        if over {
            tell(&mut Words::new(&unit, Side::After), args.tail.filter(|_| !args.follow), ui)?;
            return Ok(0);
        }
        std::thread::sleep(LOOK);
        match journal.record(&record.run)? {
            Some(found) => record = found,
            None => return Ok(0),
        }
    }
}

/// Shows what the agent itself said: on standard error, so that the program's own bytes alone are on standard output.
fn tell(words: &mut Words, tail: Option<usize>, ui: &Ui) -> io::Result<()> {
    let lines = words.read_next()?;
    let skipped = tail.map_or(0, |it| lines.len().saturating_sub(it));
    lines.iter().skip(skipped).for_each(|it| ui.say(it));
    Ok(())
}

/// The last lines of an output, and a reader that goes on behind them.
fn last_lines(spool: &Path, lines: usize) -> io::Result<(OutputReader, Vec<u8>)> {
    let mut size = LAST;
    loop {
        let (mut reader, mut bytes) = (OutputReader::last(spool, size), Vec::new());
        let mut dropped = false;
        while let Some(piece) = reader.read_next()? {
            dropped |= piece.missing > 0;
            bytes.extend_from_slice(&piece.bytes);
        }
        let start = start_of_last(&bytes, lines);
        if let Some(start) = start.or((dropped || (bytes.len() as u64) < size).then_some(0)) {
            bytes.drain(..start);
            return Ok((reader, bytes));
        }
        size = size.saturating_mul(8);
    }
}

/// Where the last lines begin; nothing when there are fewer than that.
fn start_of_last(bytes: &[u8], lines: usize) -> Option<usize> {
    if lines == 0 {
        return Some(bytes.len());
    }
    // A line end at the very end ends the last line and begins no other.
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut ends = body.iter().enumerate().rev().filter(|it| *it.1 == b'\n').map(|it| it.0);
    ends.nth(lines - 1).map(|it| it + 1)
}

/// How far a run is, or what became of its task.
fn status(run: &Record) -> String {
    let word = match run.verdict.as_ref().filter(|_| run.phase == Phase::Done) {
        None => run.phase.as_str(),
        Some(Verdict::Completed) => "completed",
        Some(Verdict::Stopped { .. }) => "stopped",
        Some(Verdict::Failed { .. }) => "failed",
        Some(Verdict::Again { .. }) => "put back",
        Some(Verdict::Leave { status }) => status,
    };
    word.to_owned()
}

fn list(runs: &[Record], ui: &Ui) -> Result<u8, Failure> {
    let began = |it: &Record| {
        let moment = jiff::Timestamp::from_millisecond(it.began).unwrap_or_default();
        moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    if ui.is_json() {
        let shown: Vec<Value> = runs
            .iter()
            .map(|it| {
                json!({"task": it.task, "run": it.run, "status": status(it), "began": began(it), "worker": it.worker,
                    "queue": it.queue, "engine": it.engine})
            })
            .collect();
        ui.print_json(&json!({"runs": shown}))?;
        return Ok(0);
    }
    if runs.is_empty() {
        ui.print("no runs are kept on this machine")?;
        return Ok(0);
    }
    let mut table = Table::new([
        ("task", Align::Left),
        ("status", Align::Left),
        ("began", Align::Left),
        ("worker", Align::Left),
        ("engine", Align::Left),
    ]);
    for it in runs {
        table.row([it.task.clone(), status(it), began(it), it.worker.clone(), it.engine.clone()]);
    }
    ui.print(&table.render(ui.paint()))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_by_their_ends() {
        let last = |text: &str, lines| start_of_last(text.as_bytes(), lines).map(|it| text[it..].to_owned());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(last("a\nb\nc\n", 1), some("c\n"));
        assert_eq!(last("a\nb\nc\n", 2), some("b\nc\n"));
        assert_eq!(last("a\nb\nc", 2), some("b\nc"));
        assert_eq!(last("a\nb\nc", 0), some(""));
        assert_eq!(last("a\n\n", 1), some("\n"));
        assert_eq!((last("a\nb\nc\n", 3), last("", 1)), (None, None));
    }
}
