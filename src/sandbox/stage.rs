//! The other side: this program started again, single-threaded, entering namespaces and doing the work there.
//!
//! The first stage enters the user namespace and does what needs no process tree. For a run it makes the other
//! namespaces and starts the second stage, which is the first process inside: it mounts, moves in and starts the
//! program. Both die with their parent.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, Gid, Uid, UnshareFlags};

use super::job::{self, Doing, Head, Ids, Limit, Reply, Run, STAGE, Trouble, Work};
use super::{fill, mounts, unpack, upper};

/// Takes over when this process is a stage of a sandbox, and does not return then. To be called first in `main`, before
/// there is any thread.
pub fn dispatch() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|it| it != STAGE) {
        return;
    }
    let mut text = || args.next().and_then(|it| it.into_string().ok());
    let stage = text().unwrap_or_default();
    let Some(control) = text().and_then(|it| control(&it)) else {
        std::process::exit(2);
    };
    // Whatever it is for the user outside: what a step writes must not depend on that.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let _ = rustix::io::fcntl_setfd(&control, rustix::io::FdFlags::CLOEXEC);
    // Closed by the program's start, or by this process's end: the first stage hears of either, and of neither before we
    // have said why there is no program.
    let mut begun = if stage == "2" { text().and_then(|it| self::control(&it)) } else { None };
    if let Some(begun) = &begun {
        let _ = rustix::io::fcntl_setfd(begun, rustix::io::FdFlags::CLOEXEC);
    }
    let result = if stage == "2" { inner(&control, &mut begun) } else { outer(&control) };
    let code = result.unwrap_or_else(|trouble| {
        let _ = job::send(&control, &Reply::Failed(trouble));
        1
    });
    std::process::exit(code);
}

/// What our parent speaks over: `socket:PATH`, or the number of a descriptor.
fn control(name: &str) -> Option<File> {
    if let Some(path) = name.strip_prefix("socket:") {
        return UnixStream::connect(path).ok().map(|it| File::from(OwnedFd::from(it)));
    }
    let number = name.parse::<RawFd>().ok().filter(|it| *it > 2)?;
    // SAFETY: our parent opened this descriptor for us alone and says so in the argument; nothing else in this process,
    // which has only just begun, owns it.
    Some(unsafe { File::from_raw_fd(number) })
}

fn next<T: serde::de::DeserializeOwned>(control: &File) -> Result<T, Trouble> {
    let frame = job::receive(control).doing(|| "hear what to do".to_owned())?;
    frame.ok_or_else(|| Trouble::io("hear what to do", &io::ErrorKind::UnexpectedEof.into()))
}

fn say(control: &File, reply: &Reply) -> Result<(), Trouble> {
    job::send(control, reply).doing(|| "answer".to_owned())
}

/// The first stage.
fn outer(control: &File) -> Result<i32, Trouble> {
    let head: Head = next(control)?;
    enter_user(control, head.ids)?;
    die_with_parent()?;
    if head.isolate {
        return isolate(control, &head);
    }
    let (_, work): (Ids, Work) = next(control)?;
    match work {
        Work::Unpack(work) => unpack::unpack(&work, head.ids)?,
        Work::Fill(work) => fill::fill(&work, head.ids)?,
        Work::Remove(paths) => {
            for path in paths {
                remove(&path)?;
            }
        }
        Work::Walk(work) => {
            unshare(UnshareFlags::NEWNS)?;
            let mut out = io::BufWriter::with_capacity(1 << 20, control);
            upper::walk(&work, head.ids, &mut |entry, content| {
                job::send(&mut out, &Reply::Entry(entry.clone())).doing(|| "tell an entry".to_owned())?;
                if let Some(content) = content {
                    io::copy(content, &mut out).doing(|| format!("read `{}`", entry.path))?;
                }
                Ok(())
            })?;
            out.flush().doing(|| "answer".to_owned())?;
        }
        Work::Run(_) => return Err(Trouble::input("run a program", "it was not announced")),
    }
    say(control, &Reply::Done)?;
    Ok(0)
}

fn enter_user(control: &File, ids: Ids) -> Result<(), Trouble> {
    match ids {
        Ids::Host => return Ok(()),
        Ids::Mapped => {
            unshare(UnshareFlags::NEWUSER)?;
            say(control, &Reply::Unshared)?;
            let () = next(control)?;
            rustix::thread::set_thread_groups(&[]).doing(|| "leave the groups".to_owned())?;
        }
        Ids::Single { uid, gid } => {
            unshare(UnshareFlags::NEWUSER)?;
            for (file, text) in
                [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
            {
                let path = format!("/proc/self/{file}");
                let mut open = File::options();
                let mut file = open.write(true).open(&path).doing(|| format!("open `{path}`"))?;
                file.write_all(text.as_bytes()).doing(|| format!("write `{path}`"))?;
            }
        }
    }
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).doing(|| "become the group root".to_owned())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).doing(|| "become root".to_owned())
}

fn unshare(flags: UnshareFlags) -> Result<(), Trouble> {
    let name = match flags {
        UnshareFlags::NEWUSER => "a user namespace",
        UnshareFlags::NEWNS => "a mount namespace",
        _ => "namespaces",
    };
    // SAFETY: this process has one thread, and the descriptor table is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }.doing(|| format!("make {name}"))
}

fn die_with_parent() -> Result<(), Trouble> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing(|| "follow the parent".to_owned())
}

/// Starts the second stage in namespaces of its own and tells how it ended.
fn isolate(control: &File, head: &Head) -> Result<i32, Trouble> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC;
    flags.set(UnshareFlags::NEWNET, !head.network);
    unshare(flags)?;
    let handed = rustix::io::dup(control).doing(|| "hand over".to_owned())?;
    let (mut began, ours) = io::pipe().doing(|| "hand over".to_owned())?;
    let begun = rustix::io::dup(&ours).doing(|| "hand over".to_owned())?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(STAGE).arg("2").arg(handed.as_raw_fd().to_string()).arg(begun.as_raw_fd().to_string());
    // dup(2) leaves the copies open across exec, as is wanted here.
    let child = command.spawn().doing(|| "start the first process".to_owned())?;
    drop((handed, begun, ours));
    let pid = i32::try_from(child.id()).unwrap_or(0);
    say(control, &Reply::Started { pid })?;
    let _ = io::Read::read(&mut began, &mut [0]);
    say(control, &Reply::Begun)?;
    let code = attend(control, pid)?;
    // The second stage has told already why it failed, if it did.
    say(control, &Reply::Exited { code })?;
    Ok(0)
}

/// The second stage: process 1 of the namespaces.
fn inner(control: &File, begun: &mut Option<File>) -> Result<i32, Trouble> {
    die_with_parent()?;
    let (ids, work): (Ids, Work) = next(control)?;
    let Work::Run(run) = work else { return Err(Trouble::input("run a program", "another thing was asked for")) };
    let input = match &run.input {
        Some(path) => Some(fs_err::File::open(path).doing(|| "open the input".to_owned())?),
        None => None,
    };
    let made = mounts::enter(&run, ids)?;
    if !run.hostname.is_empty() {
        rustix::system::sethostname(run.hostname.as_bytes()).doing(|| "set the host name".to_owned())?;
    }
    say(control, &Reply::Made(made))?;
    limit_capabilities(ids)?;
    for limit in &run.limits {
        set_limit(limit)?;
    }
    let Some((program, arguments)) = run.argv.split_first() else { return Ok(0) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&run.env);
    if !run.directory.is_empty() {
        command.current_dir(&run.directory);
    }
    if let Some(input) = input {
        command.stdin(input.into_file());
    }
    become_user(&mut command, &run, ids, control)?;
    if run.first {
        return Err(Trouble::io(format!("start `{program}`"), &command.exec()));
    }
    let child = command.spawn().doing(|| format!("start `{program}`"))?;
    // This process stays beside it: the first stage must hear of the start all the same, and go on to attend us.
    drop(begun.take());
    wait_for(i32::try_from(child.id()).unwrap_or(0))
}

fn become_user(command: &mut Command, run: &Run, ids: Ids, control: &File) -> Result<(), Trouble> {
    // Where there is one id only, root inside is the user outside already.
    let Some((uid, gid)) = run.user.filter(|_| !matches!(ids, Ids::Single { .. })) else { return Ok(()) };
    let line = control.try_clone().doing(|| "hand over".to_owned())?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let groups: Vec<Gid> = run.groups.iter().copied().map(Gid::from_raw).collect();
    // SAFETY: between fork and exec only these system calls are made; they allocate nothing and take no lock.
    unsafe {
        command.pre_exec(move || {
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            // Forgotten by the kernel when the user changes.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // Whoever listens may have ended in between, and with it our parent.
            let mut watched = [PollFd::new(&line, PollFlags::empty())];
            rustix::event::poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            if watched[0].revents().contains(PollFlags::HUP) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
    Ok(())
}

fn set_limit(limit: &Limit) -> Result<(), Trouble> {
    use rustix::process::{Resource, Rlimit};
    let doing = || format!("set the limit `{}`", limit.name);
    let resource = match limit.name.as_str() {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return Err(Trouble::input(doing(), "there is none of that name")),
    };
    rustix::process::setrlimit(resource, Rlimit { current: limit.soft, maximum: limit.hard }).doing(doing)
}

/// Closes every descriptor but the three standard ones that this process came with: locks and sockets of whoever started
/// it must not live on with it. To be called first in `main`, before anything is opened.
pub fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<RawFd> =
        entries.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok()).filter(|it| *it > 2).collect();
    // The one that listed them is closed by now.
    let open = |it: &RawFd| std::fs::symlink_metadata(format!("/proc/self/fd/{it}")).is_ok();
    for number in numbers.into_iter().filter(open) {
        // SAFETY: this process has only just begun; nothing in it owns a descriptor beyond the standard ones.
        unsafe { rustix::io::close(number) };
    }
}

/// Leaves what the usual container engines leave to root inside: enough to install packages, not to touch the host.
fn limit_capabilities(ids: Ids) -> Result<(), Trouble> {
    let kept = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::KILL
        | CapabilitySet::SETGID
        | CapabilitySet::SETUID
        | CapabilitySet::SETPCAP
        | CapabilitySet::NET_BIND_SERVICE
        | CapabilitySet::NET_RAW
        | CapabilitySet::SYS_CHROOT
        | CapabilitySet::AUDIT_WRITE
        | CapabilitySet::SETFCAP;
    if ids != Ids::Host {
        // Capabilities of a user namespace reach nothing outside it.
        return Ok(());
    }
    for capability in CapabilitySet::all().difference(kept).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A kernel that does not know it.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(Trouble::io("give up capabilities", &errno.into())),
        }
    }
    Ok(())
}

/// Waits for the second stage, and ends where the one who asked for it is gone: a process in a container has no parent
/// whose end it would hear of.
fn attend(control: &File, pid: i32) -> Result<i32, Trouble> {
    let waited = || "wait for the program".to_owned();
    let stage = Pid::from_raw(pid).map(|it| rustix::process::pidfd_open(it, PidfdFlags::empty()));
    let Some(Ok(stage)) = stage else { return wait_for(pid) };
    loop {
        let mut heard = [PollFd::new(&stage, PollFlags::IN), PollFd::new(control, PollFlags::empty())];
        match rustix::event::poll(&mut heard, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno)).doing(waited),
        }
        if !heard[0].revents().is_empty() {
            return wait_for(pid);
        }
        if !heard[1].revents().is_empty() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe)).doing(waited);
        }
    }
}

/// Waits for a process and, as its parents are gone, for all others that end meanwhile: its exit code, or 128 and the
/// number of the signal that ended it.
fn wait_for(pid: i32) -> Result<i32, Trouble> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if Some(ended) == Pid::from_raw(pid) => {
                let signal = || status.terminating_signal().map_or(1, |it| 128 + it);
                return Ok(status.exit_status().unwrap_or_else(signal));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Trouble::io("wait for the program", &errno.into())),
        }
    }
}

/// Removes a tree, whatever the modes in it.
fn remove(path: &std::path::Path) -> Result<(), Trouble> {
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("remove `{}`", path.display())),
    }
}
