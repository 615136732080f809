//! The grammar, and that no spelling gets past a policy.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Vec<(String, Option<String>)> {
    let switches = parse(text).unwrap();
    switches.iter().map(|it| (it.name().to_owned(), it.value().map(str::to_owned))).collect()
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn every_form_is_read_as_docker_reads_it() {
    let volume = || ("volume".to_owned(), Some("/x:/y".to_owned()));
    for text in ["-v /x:/y", "-v/x:/y", "-v=/x:/y", "--volume /x:/y", "--volume=/x:/y"] {
        assert_eq!(read(text), [volume()], "{text}");
    }
    let flags = |list: &[&str]| list.iter().map(|it| ((*it).to_owned(), None)).collect::<Vec<_>>();
    assert_eq!(read("-it"), flags(&["interactive", "tty"]));
    for text in ["-itv /x:/y", "-itv/x:/y", "-itv=/x:/y"] {
        assert_eq!(read(text), [flags(&["interactive", "tty"]), vec![volume()]].concat(), "{text}");
    }
    assert_eq!(read("--net host"), [("network".to_owned(), Some("host".to_owned()))]);
    assert_eq!(read("--memory-swap -1"), [("memory-swap".to_owned(), Some("-1".to_owned()))]);
    assert_eq!(read("--privileged=false --rm"), [("privileged".into(), Some("false".into())), ("rm".into(), None)]);
    // As docker does: whatever follows is the value.
    assert_eq!(read("-l --privileged"), [("label".to_owned(), Some("--privileged".to_owned()))]);
}

#[test]
fn what_cannot_be_read_is_named() {
    assert_eq!(message("--cpuz 1"), "the container argument `--cpuz` is no switch of `docker run`");
    assert_eq!(message("--cpuz=1"), "the container argument `--cpuz` is no switch of `docker run`");
    assert_eq!(message("-itZ"), "the container argument `-Z` is no switch of `docker run`");
    assert_eq!(message("-i-net=host"), "the container argument `-i-net` is no switch of `docker run`");
    assert_eq!(scan(&["-i-".to_owned()]), [Part::Unknown("-i-".to_owned())]);
    assert_eq!(message("ubuntu:22.04"), "`ubuntu:22.04` among the container arguments belongs to no switch");
    assert_eq!(message("--ipc=host --"), "`--` among the container arguments belongs to no switch");
    assert_eq!(message("--rm -v"), "the container argument `-v` has no value");
    assert_eq!(message("-v 'x"), "the container arguments have a quote without its end");
}

#[test]
fn each_switch_is_known_once() {
    let mut names: Vec<&str> = known::KNOWN.iter().map(|it| it.name).collect();
    assert!(names.is_sorted(), "by name");
    names.dedup();
    assert_eq!(names.len(), known::KNOWN.len());
    let mut letters: Vec<char> = known::KNOWN.iter().filter_map(|it| it.short).collect();
    letters.sort_unstable();
    letters.dedup();
    assert_eq!(letters.len(), known::KNOWN.iter().filter(|it| it.short.is_some()).count());
}

#[test]
fn a_policy_names_switches_in_any_spelling() {
    for entry in ["v", "-v", "volume", "--volume", "--volume=/x"] {
        let policy = ArgumentPolicy { allowed: Vec::new(), forbidden: vec![entry.to_owned()] };
        let mut warnings = Vec::new();
        let policy = policy.read(&mut warnings).unwrap();
        let left = policy.of_task(parse("-v/x:/y --rm --volume=/a:/b -itv /c:/d").unwrap(), &mut warnings);
        let left: Vec<_> = left.iter().map(Switch::name).collect();
        assert_eq!((left, warnings.len()), (vec!["rm", "interactive", "tty"], 3), "{entry}");
    }
    let policy = ArgumentPolicy { allowed: Vec::new(), forbidden: vec!["priviledged".to_owned()] };
    let mut warnings = Vec::new();
    drop(policy.read(&mut warnings));
    assert_eq!(
        warnings,
        ["`priviledged` in `agent.forbidden_docker_args` is no switch of `docker run` and has no effect"]
    );
}

#[test]
fn filters_are_tried_on_what_was_written() {
    let left = |filter: &str, text: &str| {
        let policy = ArgumentPolicy { allowed: vec![filter.to_owned()], forbidden: Vec::new() };
        let kept = policy.read(&mut Vec::new()).unwrap().of_task(parse(text).unwrap(), &mut Vec::new());
        kept.iter().flat_map(Switch::words).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(left("^--env$", "--env A=1 --env=B=2 --env-file=/x -e C=3"), "--env A=1 --env=B=2");
    assert_eq!(left("^-e$", "-eA=1 -e B=2 --entrypoint sh"), "-eA=1 -e B=2");
    assert_eq!(left("--network=host$", "--network=host --network=none --network host"), "--network=host");
}

/// All ways to write a switch with a value.
fn spellings(known: &'static Known, value: &str) -> Vec<Vec<String>> {
    let mut names = vec![known.name];
    names.extend(["net", "net-alias", "dns-opt"].into_iter().filter(|it| known::long(it) == Some(known)));
    let mut all = Vec::new();
    for name in names {
        if known.flag {
            all.extend([vec![format!("--{name}")], vec![format!("--{name}=true")]]);
        } else {
            all.extend([vec![format!("--{name}"), value.to_owned()], vec![format!("--{name}={value}")]]);
        }
    }
    if let Some(letter) = known.short {
        for joined in ["", "it", "P", "qi"] {
            if known.flag {
                all.extend([vec![format!("-{joined}{letter}")], vec![format!("-{joined}{letter}i")]]);
            } else {
                let apart = vec![format!("-{joined}{letter}"), value.to_owned()];
                all.extend([
                    apart,
                    vec![format!("-{joined}{letter}{value}")],
                    vec![format!("-{joined}{letter}={value}")],
                ]);
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn no_spelling_of_a_forbidden_switch_is_left(
        index in 0..known::KNOWN.len(), value in "[/a-z0-9][ -~]{0,20}", before in "[/a-z0-9:]{1,8}", pick in any::<usize>(),
    ) {
        let known = &known::KNOWN[index];
        let all = spellings(known, &value);
        let words = [vec!["--label".to_owned(), before], all[pick % all.len()].clone()].concat();
        let policy = ArgumentPolicy { allowed: Vec::new(), forbidden: vec![known.name.to_owned()] };
        let mut warnings = Vec::new();
        let policy = policy.read(&mut warnings).unwrap();
        let left = policy.of_task(parse_words(&words).unwrap(), &mut warnings);
        prop_assert!(left.iter().all(|it| it.name() != known.name));
        prop_assert!(!warnings.is_empty());
    }

    #[test]
    fn a_filter_lets_nothing_else_through(
        index in 0..known::KNOWN.len(), value in "[/a-z0-9][ -~]{0,20}", pick in any::<usize>(),
    ) {
        let known = &known::KNOWN[index];
        prop_assume!(known.name != "env");
        let all = spellings(known, &value);
        let policy = ArgumentPolicy { allowed: vec!["^--env$".to_owned(), "^-e$".to_owned()], forbidden: Vec::new() };
        let policy = policy.read(&mut Vec::new()).unwrap();
        let left = policy.of_task(parse_words(&all[pick % all.len()]).unwrap(), &mut Vec::new());
        prop_assert_eq!(left, Vec::new());
    }

    #[test]
    fn words_mean_the_same_again(words in proptest::collection::vec("-{0,2}[a-zA-Z=/ -]{0,6}", 0..6)) {
        let parts = scan(&words);
        let again: Vec<String> = parts.iter().flat_map(Part::words).collect();
        prop_assert_eq!(scan(&again), parts);
    }
}
