//! What consoles find hard: one line of megabytes, bytes that are no text, characters in pieces, lines that go back to
//! their start, more lines in a second than anybody reads, no end at the end. The server has every line once and in order,
//! `agent logs` every byte.

use super::in_each_engine;
use super::task::{IN_DOCKER, IN_PODMAN, NATIVELY, Task, Where};
use crate::support::{TestContext, scaled};

/// Prints all of it on one stream. `LINES` lines come at the rate of `RATE` in a second, or as fast as they are taken.
const PRINTS: &str = r"
import sys, time
def say(data, pause=0):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    time.sleep(pause)
say(b'up\n')
say(b''.join(b'%014d\xc3\xa9' % it for it in range(LONG // 16)) + b'\n')
say(b'no text: \xff\xfe\x80 but bytes\n')
say(b'in pieces: \xc3', 0.2)
say(b'\xa4 \xf0\x9f', 6)
say(b'\x98\x80 and on\n')
say(b'progress 10%', 0.2)
say(b'\rprogress 50%\rprogress 100%\r', 0.2)
say(b'\ndos\r\n')
lines, rate = LINES, RATE
began = time.monotonic()
for at in range(0, lines, 1000):
    say(b''.join(b'line %d of %d\n' % (it, lines) for it in range(at, min(at + 1000, lines))))
    time.sleep(max(0, began + at / rate - time.monotonic()))
say(b'took %012.3f s, no end' % (time.monotonic() - began))
";

/// What the server has of it, and what this machine has, up to the time it took.
fn expected(long: u64, lines: u64) -> (String, Vec<u8>) {
    let line: String = (0..long / 16).map(|it| format!("{it:014}é")).collect();
    let flood: String = (0..lines).map(|it| format!("line {it} of {lines}\n")).collect();
    let told = format!(
        "up\n{line}\nno text: \u{fffd}\u{fffd}\u{fffd} but bytes\nin pieces: ä \u{1f600} and on\nprogress 100%\ndos\n{flood}took "
    );
    let kept = [
        format!("up\n{line}\nno text: ").as_bytes(),
        b"\xff\xfe\x80 but bytes\nin pieces: \xc3\xa4 \xf0\x9f\x98\x80 and on\n",
        b"progress 10%\rprogress 50%\rprogress 100%\r\ndos\r\n",
        format!("{flood}took ").as_bytes(),
    ]
    .concat();
    (told, kept)
}

/// Fails unless one begins with the other, and shows the place where they part.
#[track_caller]
fn begins(found: &[u8], expected: &[u8]) {
    let same = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let around =
        |text: &[u8]| String::from_utf8_lossy(&text[same.saturating_sub(40)..text.len().min(same + 80)]).into_owned();
    assert!(
        same == expected.len(),
        "{} bytes, expected {}, differ from byte {same} on:\n{:?}\n{:?}",
        found.len(),
        expected.len(),
        around(found),
        around(expected)
    );
}

fn whatever_a_program_prints_is_there_once_and_in_order(place: &Where) {
    let context = TestContext::new();
    let long = scaled("AGENT_TEST_CONSOLE_LONG", 10 << 20);
    let lines = scaled("AGENT_TEST_CONSOLE_LINES", 200_000);
    let rate = scaled("AGENT_TEST_CONSOLE_RATE", 100_000);
    let script = PRINTS.replace("LONG", &long.to_string()).replace("LINES", &lines.to_string());
    let task = Task::new(&context, place, &script.replace("RATE", &rate.to_string()));
    let output = context.path("output");
    let mut running = task.execute().spawn(&output);
    let code = running.wait();
    assert_eq!(code, Some(0), "{} bytes of output", fs_err::metadata(&output).unwrap().len());
    assert_eq!(task.told(), ("completed".to_owned(), "worker execution done".to_owned()));

    let (told, kept) = expected(long, lines);
    let console = task.server.console(&task.id);
    let start = console.find("\nup\n").unwrap() + 1;
    begins(&console.as_bytes()[start..], told.as_bytes());
    let rest = &console[start + told.len()..];
    let took: f64 = rest[..12].parse().unwrap();
    // What is ours comes behind it, however much came at once.
    let (end, ours) = rest[12..].split_once('\n').unwrap();
    assert_eq!((end, ours.lines().count()), (" s, no end", 1), "{rest}");
    assert!(ours.starts_with("Process completed"), "{rest}");

    let logs = context.agent().env("AGENT_STATE_DIR", context.path("state")).args(["logs", &task.id]).run().success();
    begins(&logs.bytes, &kept);
    assert_eq!(logs.bytes[kept.len()..], *format!("{took:012.3} s, no end").as_bytes());
    // How fast it was is a matter of the machine: `ci/soak` asks.
    let slowest = scaled("AGENT_TEST_CONSOLE_SECONDS", u64::MAX) as f64;
    assert!(took <= slowest, "{lines} lines took {took} s, more than {slowest} s");
}
in_each_engine!(whatever_a_program_prints_is_there_once_and_in_order);
