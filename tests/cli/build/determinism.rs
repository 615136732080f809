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

/// Directories are read backwards by programs that are started with it.
const BACKWARDS: &str = r#"
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
struct listing { DIR *dir; struct dirent64 **entries; size_t count, left; struct listing *next; };
static struct listing *listings;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct listing *find(DIR *dir) {
  struct listing *it = listings;
  while (it && it->dir != dir) it = it->next;
  return it;
}
struct dirent64 *readdir64(DIR *dir) {
  struct dirent64 *(*real)(DIR *) = dlsym(RTLD_NEXT, "readdir64"), *entry = NULL;
  pthread_mutex_lock(&mutex);
  struct listing *it = find(dir);
  if (!it) {
    it = calloc(1, sizeof *it);
    it->dir = dir; it->next = listings; listings = it;
    while ((entry = real(dir))) {
      it->entries = realloc(it->entries, (it->count + 1) * sizeof *it->entries);
      it->entries[it->count] = malloc(entry->d_reclen);
      memcpy(it->entries[it->count++], entry, entry->d_reclen);
    }
    it->left = it->count;
  }
  entry = it->left ? it->entries[--it->left] : NULL;
  pthread_mutex_unlock(&mutex);
  return entry;
}
struct dirent *readdir(DIR *dir) { return (struct dirent *)readdir64(dir); }
int closedir(DIR *dir) {
  int (*real)(DIR *) = dlsym(RTLD_NEXT, "closedir");
  pthread_mutex_lock(&mutex);
  struct listing **at = &listings;
  while (*at && (*at)->dir != dir) at = &(*at)->next;
  if (*at) {
    struct listing *it = *at;
    *at = it->next;
    while (it->count) free(it->entries[--it->count]);
    free(it->entries); free(it);
  }
  pthread_mutex_unlock(&mutex);
  return real(dir);
}
"#;

fn backwards(context: &TestContext) -> std::path::PathBuf {
    let (source, library) = (context.path("order.c"), context.path("order.so"));
    write(&source, BACKWARDS);
    context.command("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).args(["-ldl", "-lpthread"]).ok();
    let list = |call: crate::support::Call| call.args(["-U", "/etc"]).ok();
    let usual = list(context.command("ls"));
    let shown = list(context.command("ls").env("LD_PRELOAD", &library));
    let mut turned: Vec<&str> = shown.lines().collect();
    turned.reverse();
    assert!(turned.len() > 2 && turned == usual.lines().collect::<Vec<_>>(), "directories are not read backwards");
    library
}

#[test]
fn the_order_in_which_a_file_system_names_files_does_not_matter() {
    let first = TestContext::new();
    let mut sample = Sample::new(&first);
    // Names in no order, in a layer of packages, one of a script, one of code and one of bytecode.
    let script = "mkdir /opt/made; cd /opt/made; for name in m c z a k b; do echo $name > $name; mkdir d$name; done";
    sample.task["container"] = serde_json::json!({"setup_shell_script": script});
    let files = ["m.py", "c/z.py", "c/a.py", "z.py", "a/k.py", "a/b/x.py"].map(|it| (it, "x = 1\n"));
    write(&sample.repository.path().join("helper.py"), "NAME = 'committed'\n");
    sample.task["script"]["version_num"] = serde_json::json!(sample.repository.commit(&files));
    let lock = sample.lock(&["--apt", "libgomp1"]);
    let digest = built(&first, |call| call.arg("--lock").arg(&lock));
    // Another kind of file system under the store and all work, and another order besides.
    let second = TestContext::new();
    let other = built(&second, |_| {
        let disk = second.path("disk");
        fs_err::create_dir(&disk).unwrap();
        let script = format!("mount -t tmpfs -o size=4g tmpfs '{0}' && mkdir '{0}/tmp' && exec \"$@\"", disk.display());
        let call = second.command("unshare").args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        let call = call.arg(env!("CARGO_BIN_EXE_agent")).arg("build").arg("--lock").arg(&lock);
        call.args(["--docker", &base_argument(), "--repository"])
            .arg(sample.repository.path())
            .env("AGENT_CACHE_DIR", disk.join("cache"))
            .env("TMPDIR", disk.join("tmp"))
            .env("LD_PRELOAD", backwards(&second))
    });
    assert_eq!(other, digest);
}
