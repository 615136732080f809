//! `agent logs`: the console of runs of this machine.

use std::path::PathBuf;

use agent::daemon::journal::{Side, Words};
use agent::daemon::{Claim, Journal};
use agent::gpu::GpuSet;
use agent::run::RunId;
use agent::spool::{OutputWriter, Spool};

use crate::support::{Call, TestContext, wait_for};

/// A run as a daemon leaves it on disk.
struct Run {
    record: PathBuf,
    output: OutputWriter,
}

impl Run {
    fn new(context: &TestContext, task: &str) -> Self {
        let journal = Journal::open(&context.path("state")).unwrap();
        let claim = Claim {
            task: task.to_owned(),
            queue: Some("queue".to_owned()),
            worker: "box:0".to_owned(),
            parent: None,
            gpus: GpuSet::default(),
            tags: Vec::new(),
            attempt: 0,
            run: RunId::new().unwrap(),
        };
        journal.intend(&claim, "native", "http://127.0.0.1:1").unwrap();
        let spool = journal.spool(&claim.run);
        Spool::prepare(&spool).unwrap();
        let output = OutputWriter::open(&spool, 1 << 20).unwrap();
        Self { record: journal.directory(&claim.run).join("unit.json"), output }
    }

    /// Writes down how far it is.
    fn is(&self, phase: &str) {
        let mut record: serde_json::Value = serde_json::from_slice(&fs_err::read(&self.record).unwrap()).unwrap();
        record["phase"] = phase.into();
        let aside = self.record.with_extension("aside");
        fs_err::write(&aside, record.to_string()).unwrap();
        fs_err::rename(aside, &self.record).unwrap();
    }
}

fn logs(context: &TestContext) -> Call {
    context.agent().env("AGENT_STATE_DIR", context.path("state")).arg("logs")
}

#[test]
fn what_a_run_printed_is_shown_byte_for_byte() {
    let context = TestContext::new();
    let mut run = Run::new(&context, "0123abcd");
    run.output.write("one\rtwo\nthr\u{e9}e\nfour".as_bytes()).unwrap();
    run.is("done");
    assert_eq!(logs(&context).arg("0123abcd").run().exits(0).stdout, "one\rtwo\nthr\u{e9}e\nfour");
    assert_eq!(logs(&context).args(["0123", "--tail", "2"]).run().exits(0).stdout, "thr\u{e9}e\nfour");
    assert_eq!(logs(&context).args(["0123", "--tail", "0"]).run().exits(0).stdout, "");
    let list = logs(&context).ok();
    assert!(list.contains("0123abcd") && list.contains("box:0") && list.contains("native"), "{list}");
    let list: serde_json::Value = serde_json::from_str(&logs(&context).arg("--json").ok()).unwrap();
    assert_eq!(list["runs"][0]["task"], "0123abcd");
    assert_eq!(list["runs"][0]["queue"], "queue");
}

#[test]
fn the_last_of_many_lines_are_found_without_reading_all_into_the_answer() {
    let context = TestContext::new();
    let mut run = Run::new(&context, "0123abcd");
    for number in 0..40_000 {
        run.output.write(format!("line {number}\n").as_bytes()).unwrap();
    }
    run.is("done");
    let shown = logs(&context).args(["0123abcd", "--tail", "20000"]).run().exits(0).stdout;
    assert_eq!((shown.lines().next(), shown.lines().count()), (Some("line 20000"), 20_000));
}

#[test]
fn what_the_agent_said_of_a_run_stands_beside_its_output() {
    let context = TestContext::new();
    let mut run = Run::new(&context, "0123abcd");
    let unit = run.record.parent().unwrap();
    Words::new(unit, Side::Before).add("the image is made").unwrap();
    Words::new(unit, Side::Before).add("it starts").unwrap();
    Words::new(unit, Side::After).add("it failed").unwrap();
    run.output.write(b"printed\n").unwrap();
    run.is("done");
    let shown = logs(&context).arg("0123abcd").run().exits(0);
    assert_eq!(
        (shown.stdout.as_str(), shown.stderr.as_str()),
        ("printed\n", "the image is made\nit starts\nit failed\n")
    );
    let shown = logs(&context).args(["0123abcd", "--tail", "1"]).run().exits(0);
    assert_eq!((shown.stdout.as_str(), shown.stderr.as_str()), ("printed\n", "it starts\nit failed\n"));
}

#[test]
fn following_ends_with_the_run() {
    let context = TestContext::new();
    let mut run = Run::new(&context, "0123abcd");
    run.output.write(b"first\n").unwrap();
    run.is("run");
    let shown = context.path("shown");
    let mut follows = logs(&context).args(["0123abcd", "-f"]).spawn(&shown);
    let says = |text: &str| fs_err::read_to_string(&shown).unwrap_or_default().contains(text).then_some(());
    wait_for("the first line", || says("first\n"));
    run.output.write(b"second\n").unwrap();
    wait_for("the second line", || says("second\n"));
    assert!(!follows.ended());
    run.output.write(b"last").unwrap();
    run.is("done");
    assert_eq!(follows.wait(), Some(0));
    assert!(fs_err::read_to_string(&shown).unwrap().ends_with("second\nlast"));
}

#[test]
fn what_is_not_there_or_not_clear_is_told() {
    let context = TestContext::new();
    assert_eq!(logs(&context).ok().trim(), "no runs are kept on this machine");
    let outcome = logs(&context).arg("0123").run().exits(66);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: no run of task `0123` is kept on this machine
    hint: `agent logs` lists what is kept here; the server has the console of all tasks.
    ");
    let (first, second) = (Run::new(&context, "0123abcd"), Run::new(&context, "0123ffff"));
    first.is("done");
    second.is("done");
    let outcome = logs(&context).arg("0123").run().exits(2);
    insta::assert_snapshot!(outcome.shown_stderr(), @r"
    error: `0123` is the beginning of several tasks: 0123abcd, 0123ffff
    hint: Write more of the id.
    ");
    let outcome = logs(&context).arg("--follow").run().exits(2);
    assert!(outcome.stderr.contains("<TASK>"), "{}", outcome.stderr);
}
