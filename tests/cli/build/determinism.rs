//! The same lock is the same image, whoever builds it, wherever and however.

use super::{Sample, base_argument, built};
use crate::support::{TestContext, user, write};

/// A clock that is a day and some hours fast, for programs that are started with it.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
#define AHEAD (31 * 3600 + 17)
int clock_gettime(clockid_t clock, struct timespec *time) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(clock, time);
  if (code == 0 && clock == CLOCK_REALTIME) time->tv_sec += AHEAD;
  return code;
}
int gettimeofday(struct timeval *time, void *zone) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  time->tv_sec = now.tv_sec; time->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *to) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (to) *to = now.tv_sec;
  return now.tv_sec;
}
"#;

fn fast_clock(context: &TestContext) -> std::path::PathBuf {
    let (source, library) = (context.path("clock.c"), context.path("clock.so"));
    write(&source, CLOCK);
    context.command("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").ok();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let shown = context.command("date").arg("+%s").env("LD_PRELOAD", &library).ok();
    assert!(shown.parse::<u64>().unwrap() > now + 3600, "the clock is not fast");
    library
}

#[test]
fn the_same_lock_gives_the_same_manifest_whatever_surrounds_it() {
    let first = TestContext::new();
    let sample = Sample::new(&first);
    let lock = sample.lock(&["--entry-point", "clone_task", "--apt", "libgomp1"]);
    let digest = built(&first, |call| call.arg("--lock").arg(&lock));
    // The layers are there already: nothing is made, and the image is the same.
    assert_eq!(built(&first, |call| call.arg("--lock").arg(&lock)), digest);
    let second = TestContext::new();
    let other = built(&second, |_| {
        let agent = env!("CARGO_BIN_EXE_agent");
        let script = "umask 077; exec taskset -c 0 \"$0\" \"$@\"";
        let call = second.command("sh").args(["-c", script, agent, "build"]).arg("--lock").arg(&lock);
        call.args(["--docker", &base_argument(), "--repository"])
            .arg(sample.repository.path())
            .env("TZ", "Asia/Kathmandu")
            .env("LC_ALL", "C")
            .env("SOURCE_DATE_EPOCH", "1")
            .env("HOSTNAME", "elsewhere")
            .env("LD_PRELOAD", fast_clock(&second))
    });
    assert_eq!(other, digest, "umask, time zone, locale, clock, cores, directory and store must not matter");
}

#[test]
fn another_user_without_rights_gives_the_same_manifest() {
    let first = TestContext::new();
    let sample = Sample::new(&first);
    let lock = sample.lock(&["--apt", "libgomp1"]);
    let digest = built(&first, |call| call.arg("--lock").arg(&lock));
    let second = TestContext::new();
    let user = user();
    let run = |arguments: &[&str]| second.command("runuser").args(["-u", &user, "--"]).args(arguments).run();
    let owner = format!("{user}:{user}");
    second.command("chown").args(["-R", &owner]).arg(second.path("")).ok();
    second.command("chmod").args(["-R", "a+rX"]).arg(first.path("")).ok();
    let metadata = second.path("metadata.json");
    let output = format!("type=oci,dest={}", second.path("image").display());
    let texts = [&lock, &metadata, sample.repository.path()].map(|it| it.display().to_string());
    run(&[
        env!("CARGO_BIN_EXE_agent"),
        "build",
        "--lock",
        &texts[0],
        "--repository",
        &texts[2],
        "--docker",
        &base_argument(),
        "--target",
        "sample:1",
        "-o",
        &output,
        "--metadata-file",
        &texts[1],
    ])
    .success();
    let metadata: serde_json::Value = serde_json::from_slice(&fs_err::read(metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], digest);
}
