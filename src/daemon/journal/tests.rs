use std::time::SystemTime;

use super::prune::HALF_MADE;
use super::*;
use crate::error::Explain;
use crate::gpu::GpuSet;

fn claim() -> Claim {
    Claim {
        task: "a".repeat(32),
        queue: Some("q".to_owned()),
        worker: "host:0".to_owned(),
        parent: None,
        gpus: GpuSet::default(),
        tags: vec!["x".to_owned()],
        attempt: 0,
        run: RunId::new().unwrap(),
    }
}

fn journal(dir: &tempfile::TempDir) -> Journal {
    Journal::open(dir.path()).unwrap()
}

#[test]
fn a_unit_is_its_process_own_until_that_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, theirs) = (journal(&dir), journal(&dir));
    let claim = claim();
    mine.intend(&claim, "docker", "http://s").unwrap();
    assert!(theirs.is_attended(&claim.run));
    assert!(theirs.abandoned(|_| true).unwrap().units.is_empty());
    assert!(mine.abandoned(|_| true).unwrap().units.is_empty());
    mine.taken(&claim.run).unwrap();
    let mut entry = mine.begin(&claim, "docker", "http://s").unwrap();
    assert!(entry.record().popped);
    entry.update(|it| it.enter(Phase::Run)).unwrap();
    drop(entry);
    let mut left = theirs.abandoned(|_| true).unwrap().units;
    let record = left[0].record().clone();
    assert_eq!((record.phase, record.worker.as_str(), record.queue.as_deref()), (Phase::Run, "host:0", Some("q")));
    assert!(mine.abandoned(|_| true).unwrap().units.is_empty());
    left.pop().unwrap().entry.remove().unwrap();
    assert!(theirs.all().unwrap().units.is_empty());
}

#[test]
fn a_claim_that_somebody_else_won_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir);
    let claim = claim();
    journal.intend(&claim, "native", "http://s").unwrap();
    journal.forget(&claim.run).unwrap();
    assert!(journal.all().unwrap().units.is_empty());
    assert!(!journal.directory(&claim.run).exists());
}

#[test]
fn records_are_private_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir);
    let claim = claim();
    let mut entry = journal.begin(&claim, "docker", "http://s").unwrap();
    for phase in [Phase::Build, Phase::Start, Phase::Drain] {
        entry.update(|it| it.enter(phase)).unwrap();
        assert_eq!(read(entry.directory()).unwrap().as_ref(), Some(entry.record()));
    }
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(entry.directory()), 0o700);
    assert_eq!(mode(&entry.directory().join("unit.json")), 0o600);
    // A process killed while it wrote leaves its draft beside the record.
    fs::write(entry.directory().join(".agent-x"), "{\"for").unwrap();
    assert_eq!(journal.all().unwrap().units.len(), 1);
}

#[test]
fn what_cannot_be_read_is_told_and_keeps_nobody_from_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir);
    drop(journal.begin(&claim(), "docker", "http://s").unwrap());
    let other = |text: &str| {
        let run = RunId::new().unwrap();
        fs::create_dir(journal.directory(&run)).unwrap();
        fs::write(journal.directory(&run).join("unit.json"), text).unwrap();
    };
    other("{\"format\": 7, \"what\": []}");
    other("{");
    // Killed before its record was there: no unit.
    fs::create_dir(journal.directory(&RunId::new().unwrap())).unwrap();
    let found = journal.abandoned(|_| true).unwrap();
    assert_eq!((found.units.len(), found.unreadable.len()), (1, 2));
    let told: Vec<String> = found.unreadable.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|it| it.ends_with("is of format 7, and this program knows format 1")), "{told:?}");
    assert!(told.iter().any(|it| it.ends_with("is no record of a run")), "{told:?}");
    assert!(found.unreadable[0].hints()[0].contains("remove"));
}

#[test]
fn units_that_are_over_stay_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir);
    let mut runs = Vec::new();
    for number in 0..5 {
        let claim = claim();
        let mut entry = journal.begin(&claim, "docker", "http://s").unwrap();
        entry.update(|it| (it.phase, it.began) = (Phase::Done, number)).unwrap();
        fs::write(entry.directory().join("output"), [0; 1000]).unwrap();
        runs.push(claim.run);
    }
    let going = journal.begin(&claim(), "docker", "http://s").unwrap();
    journal.prune_to(3, 1 << 20).unwrap();
    let there = |runs: &[RunId]| runs.iter().map(|it| journal.directory(it).exists()).collect::<Vec<_>>();
    assert_eq!(there(&runs), [false, false, true, true, true]);
    journal.prune_to(3, 2500).unwrap();
    assert_eq!(there(&runs), [false, false, false, false, true]);
    assert!(going.directory().exists());
}

#[test]
fn what_was_removed_half_way_goes_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let journal = journal(&dir);
    let going = journal.begin(&claim(), "docker", "http://s").unwrap();
    let half = journal.directory(&RunId::new().unwrap());
    fs::create_dir(&half).unwrap();
    journal.prune().unwrap();
    assert!(half.exists());
    for path in [going.directory(), &half] {
        fs::File::open(path).unwrap().file().set_modified(SystemTime::now() - 2 * HALF_MADE).unwrap();
    }
    journal.prune().unwrap();
    assert!(going.directory().exists() && !half.exists());
}
