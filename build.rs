//! Builds the in-image binary before the host program, which carries it.
//!
//! A nested cargo run with features of its own and a target directory of its own, so that it never compiles what only
//! the host needs. The result is fully static (`crt-static`) and free of build paths: the same bytes from any checkout.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the in-image binary is made of; a change in anything else must not rebuild it.
const GUEST_SOURCES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "src/guest_main.rs",
    "src/lib.rs",
    "src/guest",
    "src/spool",
    "src/machine",
    "src/clearml",
    "src/http",
    "src/config",
    "src/error.rs",
    "src/digest.rs",
    "src/secret.rs",
    "src/fs.rs",
    "src/launch.rs",
    "src/process.rs",
    "src/process",
    "src/report.rs",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=AGENT_BUILD_GUEST");
    // `ci/reproducible-guest` wants the in-image binary alone.
    if env::var_os("CARGO_FEATURE_HOST").is_none() && env::var_os("AGENT_BUILD_GUEST").is_none() {
        return;
    }
    for source in GUEST_SOURCES {
        if Path::new(source).exists() {
            println!("cargo:rerun-if-changed={source}");
        }
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let profile = if env::var("PROFILE").is_ok_and(|it| it == "release") { "guest" } else { "guest-dev" };
    let target = "x86_64-unknown-linux-gnu";
    let directory = root.join("target").join("guest");
    let home = env::var("CARGO_HOME").unwrap_or_else(|_| format!("{}/.cargo", env::var("HOME").unwrap_or_default()));
    // getrandom must ask the kernel: a static program has no libc symbol to find, and an image may have no /dev/urandom.
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        "--cfg=getrandom_backend=\"linux_getrandom\"".to_owned(),
        // It is made of symbol names too, which differ with the directory and are stripped afterwards.
        "-Clink-arg=-Wl,--build-id=none".to_owned(),
        format!("--remap-path-prefix={}=/agent", root.display()),
        format!("--remap-path-prefix={home}=/cargo"),
    ];
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    // What cargo tells this script about the host build must not reach the nested one.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let keep = ["CARGO", "CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_CAINFO"].contains(&text.as_ref())
            || text.starts_with("CARGO_REGISTRIES_")
            || text.starts_with("CARGO_SOURCE_");
        let drop = text == "AGENT_BUILD_GUEST"
            || text.starts_with("CARGO")
            || text.starts_with("RUSTC")
            || text.starts_with("RUSTFLAGS");
        if drop && !keep
            || ["OPT_LEVEL", "DEBUG", "PROFILE", "TARGET", "HOST", "OUT_DIR", "NUM_JOBS"].contains(&text.as_ref())
        {
            cargo.env_remove(&name);
        }
    }
    let status = cargo
        .current_dir(&root)
        .args(["build", "--quiet", "--locked", "--bin", "agent-guest", "--no-default-features", "--features", "guest"])
        .args(["--profile", profile, "--target", target, "--target-dir"])
        .arg(&directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .status()
        .expect("cargo starts");
    assert!(status.success(), "the in-image binary does not build: see the messages above");
    let binary = directory.join(target).join(profile).join("agent-guest");
    println!("cargo:rustc-env=AGENT_GUEST_BINARY={}", binary.display());
}
