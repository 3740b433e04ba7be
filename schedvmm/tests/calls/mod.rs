// SPDX-License-Identifier: Apache-2.0
//! Calls of the program on this machine's own kernel, as a user makes them.

#![allow(dead_code, reason = "each test file uses some of these")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// No call takes this long unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The program with these words, to be called in `dir`.
pub fn schedvmm(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_schedvmm"));
    command.args(words).current_dir(dir).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end, and not beyond the deadline.
pub fn finish(child: Child) -> Output {
    finish_within(child, DEADLINE)
}

/// The same with another deadline.
pub fn finish_within(mut child: Child, deadline: Duration) -> Output {
    let end = Instant::now() + deadline;
    while child.try_wait().expect("a child of ours").is_none() {
        if Instant::now() > end {
            child.kill().expect("a child of ours");
            panic!("it did not end within {deadline:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("a child of ours")
}

/// Calls it, and waits for its end.
pub fn call(dir: &Path, words: &[&str]) -> Output {
    finish(schedvmm(dir, words).spawn().expect("it starts"))
}

/// The result in a folder of `dir`.
pub fn result(dir: &Path, folder: &str) -> Value {
    let text = fs::read(dir.join(folder).join("result.json")).expect("a result");
    serde_json::from_slice(&text).expect("JSON")
}

/// Whether the load of a run with `--output out` runs: its first result is there.
pub fn has_begun(dir: &Path) -> bool {
    fs::read_to_string(dir.join("out/result.json")).is_ok_and(|text| text.ends_with("}\n"))
}

/// Waits until something holds, and not for ever.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "no {what} within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
