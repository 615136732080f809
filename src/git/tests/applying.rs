//! Diffs of generated histories, applied by us and by `git apply`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use super::{Bench, Worktree, files_of};
use crate::git::patch::Patch;
use crate::git::tree::{Mode, Tree};

/// Numbers that are the same in every run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, limit: usize) -> bool {
        self.below(limit) == 0
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

type Files = BTreeMap<String, (Mode, Vec<u8>)>;

const NAMES: [&str; 14] = [
    "a.py",
    "b.py",
    "src/a.py",
    "src/deep/b c.py",
    "name with space",
    "ümlaut.txt",
    "quote\"d",
    "tab\there",
    "back\\slash",
    "new\nline",
    "bin.dat",
    "dir/x",
    "dir/sub/y",
    "-dash",
];

fn text(dice: &mut Dice) -> Vec<u8> {
    let ending = if dice.one_in(5) { "\r\n" } else { "\n" };
    let mut text: Vec<u8> = Vec::new();
    for _ in 0..dice.below(30) {
        // Few different lines, so that hunks fit in more than one place.
        text.extend_from_slice(
            dice.pick(&["", "x", "    y = 1", "\tz", "-- w", "++ v", "}", "@@ -1 +1 @@", "\\ No"]).as_bytes(),
        );
        text.extend_from_slice(if dice.one_in(20) { b"\r\n" } else { ending.as_bytes() });
    }
    if dice.one_in(4) && !text.is_empty() {
        text.extend_from_slice(b"no newline");
    }
    text
}

fn binary(dice: &mut Dice) -> Vec<u8> {
    (0..40 + dice.below(400)).map(|_| dice.below(256) as u8).chain([0]).collect()
}

fn content(dice: &mut Dice, mode: Mode) -> Vec<u8> {
    match mode {
        Mode::Symlink => dice.pick(&["a.py", "../out", "dir/x", "nowhere"]).as_bytes().to_vec(),
        _ if dice.one_in(6) => binary(dice),
        _ if dice.one_in(10) => Vec::new(),
        _ => text(dice),
    }
}

fn mode(dice: &mut Dice) -> Mode {
    *dice.pick(&[Mode::File, Mode::File, Mode::File, Mode::Executable, Mode::Symlink])
}

fn generate(dice: &mut Dice) -> Files {
    let mut files = Files::new();
    for name in NAMES {
        if dice.below(10) < 6 {
            let mode = mode(dice);
            files.insert(name.to_owned(), (mode, content(dice, mode)));
        }
    }
    files
}

fn edit(dice: &mut Dice, bytes: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    for _ in 0..=dice.below(3) {
        let at = dice.below(lines.len() + 1);
        match dice.below(3) {
            0 => lines.insert(at, dice.pick(&["added\n", "x\n", "\n", "crlf\r\n"]).as_bytes().to_vec()),
            1 if at < lines.len() => drop(lines.remove(at)),
            _ if at < lines.len() => lines[at] = b"changed\n".to_vec(),
            _ => {}
        }
    }
    if dice.one_in(8)
        && let Some(last) = lines.last_mut()
        && last.ends_with(b"\n")
    {
        last.pop();
    }
    lines.concat()
}

fn mutate(dice: &mut Dice, before: &Files) -> Files {
    let mut after = before.clone();
    for name in before.keys() {
        let (mode, bytes) = before[name].clone();
        match dice.below(12) {
            0..5 if mode != Mode::Symlink => drop(after.insert(name.clone(), (mode, edit(dice, &bytes)))),
            5 => drop(after.remove(name)),
            6 => {
                after.remove(name);
                let bytes = if mode == Mode::Symlink { bytes } else { edit(dice, &bytes) };
                after.insert(format!("moved/{}", name.replace('/', "_")), (mode, bytes));
            }
            7 => drop(after.insert(format!("copy of {}", name.replace('/', "_")), (mode, bytes.clone()))),
            8 if mode != Mode::Symlink => {
                let mode = if mode == Mode::File { Mode::Executable } else { Mode::File };
                after.insert(name.clone(), (mode, bytes));
            }
            9 => {
                let mode = self::mode(dice);
                after.insert(name.clone(), (mode, content(dice, mode)));
            }
            _ => {}
        }
    }
    for _ in 0..dice.below(3) {
        let mode = mode(dice);
        after.insert(format!("new{}", dice.below(9)), (mode, content(dice, mode)));
    }
    after
}

/// Lines elsewhere, and sometimes in the way.
fn disturb(dice: &mut Dice, files: &Files) -> Files {
    let disturbed = |dice: &mut Dice, bytes: &[u8]| match dice.below(3) {
        0 => [b"moved down\n", bytes].concat(),
        1 => edit(dice, bytes),
        _ => bytes.to_vec(),
    };
    let mut files = files.clone();
    for (mode, bytes) in files.values_mut().filter(|(mode, _)| *mode != Mode::Symlink) {
        let _ = mode;
        *bytes = disturbed(dice, bytes);
    }
    files
}

fn lay_out(worktree: &Worktree, files: &Files) {
    for entry in fs_err::read_dir(&worktree.path).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != ".git" {
            if fs_err::symlink_metadata(&path).unwrap().is_dir() {
                fs_err::remove_dir_all(&path).unwrap();
            } else {
                fs_err::remove_file(&path).unwrap();
            }
        }
    }
    for (name, (mode, bytes)) in files {
        let path = worktree.path.join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        if *mode == Mode::Symlink {
            let target = std::str::from_utf8(bytes).unwrap();
            fs_err::os::unix::fs::symlink(target, &path).unwrap();
            continue;
        }
        fs_err::write(&path, bytes).unwrap();
        let bits = if *mode == Mode::Executable { 0o755 } else { 0o644 };
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
    }
}

fn applied_by_us(files: &Files, diff: &[u8]) -> Result<Vec<(String, Mode, Vec<u8>)>, String> {
    let mut tree = Tree::default();
    for (name, (mode, bytes)) in files {
        tree.insert(name, *mode, bytes.clone()).unwrap();
    }
    let patch = Patch::parse(diff).map_err(|it| it.to_string())?;
    tree.apply(&patch).map_err(|it| it.to_string())?;
    Ok(tree.entries().map(|(path, entry)| (path.to_owned(), entry.mode, tree.bytes(entry).unwrap())).collect())
}

fn compare(seed: u64) -> (usize, usize) {
    let bench = Bench::new();
    let worktree = bench.repository("w");
    let mut dice = Dice(seed);
    let (mut succeeded, mut failed) = (0, 0);
    for case in 0..60 {
        let before = generate(&mut dice);
        lay_out(&worktree, &before);
        worktree.git(&["add", "-A"]);
        let tree = worktree.git(&["write-tree"]);
        let after = mutate(&mut dice, &before);
        lay_out(&worktree, &after);
        worktree.git(&["add", "-A"]);
        let mut command = vec!["diff-index", "-p", "--cached", "--submodule=diff"];
        let no_prefix = dice.one_in(4);
        let options: [(&str, bool); 6] = [
            ("--binary", dice.below(4) > 0),
            ("--no-prefix", no_prefix),
            ("-M", dice.one_in(2)),
            ("-C", dice.one_in(3)),
            ("--find-copies-harder", dice.one_in(3)),
            ("-U0", dice.one_in(5)),
        ];
        command.extend(options.iter().filter(|(_, on)| *on).map(|(option, _)| *option));
        command.push(&tree);
        let diff = worktree.try_git(&command, b"").unwrap();
        if diff.is_empty() {
            continue;
        }
        for start in [before.clone(), disturb(&mut dice, &before)] {
            lay_out(&worktree, &start);
            let mut apply = vec!["apply", "--unidiff-zero"];
            if no_prefix {
                apply.push("-p0");
            }
            let theirs = worktree.try_git(&apply, &diff).map(|_| files_of(&worktree.path));
            let ours = applied_by_us(&start, &diff);
            let shown = || format!("seed {seed} case {case}\n{}", String::from_utf8_lossy(&diff));
            match (theirs, ours) {
                (Ok(theirs), Ok(ours)) => {
                    assert!(theirs == ours, "{}\ngit:  {theirs:?}\nours: {ours:?}", shown());
                    succeeded += 1;
                }
                (Err(_), Err(_)) => failed += 1,
                (theirs, ours) => panic!("{}\ngit: {:?}\nours: {:?}", shown(), theirs.err(), ours.err()),
            }
        }
    }
    (succeeded, failed)
}

#[test]
fn generated_diffs_apply_as_git_applies_them() {
    // Four threads; each as many rounds of 60 cases as are asked for.
    let rounds: u64 = std::env::var("AGENT_TEST_DIFFS").map_or(1, |it| it.parse().unwrap());
    let compare_rounds = move |thread: u64| (0..rounds).map(move |round| compare((thread + 4 * round) * 0x9e37_79b9));
    let threads: Vec<_> =
        (1..=4).map(|it| std::thread::spawn(move || compare_rounds(it).collect::<Vec<_>>())).collect();
    let all = threads.into_iter().flat_map(|it| it.join().unwrap());
    let (succeeded, failed) = all.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    println!("{succeeded} applied by both, {failed} refused by both");
    // Both sides are of use only if both are met.
    assert!(succeeded > 100 && failed > 50, "{succeeded} applied, {failed} refused");
}
