// SPDX-License-Identifier: Apache-2.0
//! How the command ends, as a script sees it: each exit status of the README, with the verdict in
//! `result.json` that goes with it.

mod calls;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use vmm::x86_64::elf::flat_kernel;

use self::calls::{finish, result, schedvmm, until};

/// A load that is over soon, and has no gap of seconds.
const QUICK: &str = "host --groups 1 --threads 1 --duration 500ms --noise off --threshold 20s";
/// One that has to be ended.
const LONG: &str = "host --groups 2 --threads 1 --duration 60s --noise off --threshold off";

fn start(dir: &Path, words: &str) -> Child {
    schedvmm(dir, &words.split_whitespace().collect::<Vec<_>>()).spawn().expect("it starts")
}

/// The status of a call, which must be what its result says; with that, and all it has printed.
fn judged(dir: &Path, folder: &str, output: &Output) -> (u8, Value, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let code = output.status.code().unwrap_or_else(|| panic!("killed: {text}"));
    let result = result(dir, folder);
    assert_eq!(result["exit_status"], code, "{} and its status: {text}", result["verdict"]);
    (u8::try_from(code).expect("a status"), result, text)
}

/// A load under way to which something is done: what it comes to.
fn disturbed(dir: &Path, folder: &str, disturb: impl Fn(&Child)) -> (u8, Value, String) {
    let child = start(dir, &format!("{LONG} --output {folder}"));
    // The first result is there when the load begins.
    until("load", || dir.join(folder).join("result.json").exists());
    disturb(&child);
    judged(dir, folder, &finish(child))
}

fn kill(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a process ID");
    // SAFETY: takes two integers; the process is one of ours, and has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// A process of the load.
fn group(launcher: &Child) -> u32 {
    let path = format!("/proc/{0}/task/{0}/children", launcher.id());
    let children = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    let is_group = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains("load-group"))
    };
    pids.find(is_group).unwrap_or_else(|| panic!("no process of the load among {children}"))
}

/// The first numbers in the rows of the README's table.
fn documented() -> BTreeSet<u8> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(readme).expect("README.md");
    let (_, table) = text.split_once("| exit status |").expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells
        .flat_map(|cell| cell.split(','))
        .map(|code| code.trim().parse().expect("a status"))
        .collect()
}

#[test]
fn every_status_of_the_readme_is_reached() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let mut reached = BTreeSet::new();
    let mut has = |(code, result, text): (u8, Value, String), expected: u8, verdict: &str| {
        assert_eq!((code, &result["verdict"]), (expected, &verdict.into()), "{text}");
        reached.insert(code);
        text
    };
    let call = |folder: &str, words: &str| {
        judged(dir, folder, &finish(start(dir, &format!("{words} --output {folder}"))))
    };
    has(call("pass", QUICK), 0, "pass");
    let text = has(call("measured", &QUICK.replace("20s", "off")), 0, "measured");
    assert!(text.contains("verdict  MEASURED"), "{text}");
    // The original's lines have no place for it; whoever reads them is told all the same.
    let text =
        has(call("compat", &format!("{} --compat", QUICK.replace("20s", "off"))), 0, "measured");
    assert!(text.contains("schedvmm: MEASURED") && !text.contains("verdict"), "{text}");
    let over = "host --duration 30s --threshold 1ms --noise off --on-contaminated report";
    has(call("over", over), 1, "over-threshold");
    let text =
        has(disturbed(dir, "int", |child| kill(child.id(), libc::SIGINT)), 130, "interrupted");
    assert!(text.contains("verdict  INTERRUPTED"), "{text}");
    has(disturbed(dir, "term", |child| kill(child.id(), libc::SIGTERM)), 143, "interrupted");
    // Somebody else's doing, and what would be ours: nothing but a defect aborts a process.
    let text =
        has(disturbed(dir, "killed", |child| kill(group(child), libc::SIGKILL)), 201, "host-error");
    assert!(text.contains("HOST ERROR") && text.contains("SIGKILL"), "{text}");
    let text = has(
        disturbed(dir, "aborted", |child| kill(group(child), libc::SIGABRT)),
        202,
        "internal-error",
    );
    assert!(text.contains("INTERNAL ERROR") && text.contains("report it"), "{text}");
    // No result goes with these two: nothing was begun.
    fs::write(dir.join("stump"), "MZ").expect("written");
    for (words, expected) in [("--kernel stump", 125), ("host --load-cpus 8000", 200)] {
        let output = finish(start(dir, &format!("{words} --output none")));
        assert_eq!(output.status.code(), Some(expected.into()), "{output:?}");
        assert!(!dir.join("none").exists() && !output.stderr.is_empty(), "{output:?}");
        reached.insert(expected);
    }
    assert_eq!(reached, documented());
}

#[test]
fn requests_are_checked_before_a_folder_is_made() {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::write(dir.path().join("stump"), "MZ").expect("written");
    for (words, told) in [
        ("host --load-cpus 8000", &["--load-cpus", "8000", "this host has CPUs"][..]),
        ("host --threshold 10us", &["--threshold 10µs", "--floor 100µs"]),
        ("host --threshold 2ms --floor 3ms", &["--threshold 2ms", "--floor 3ms"]),
        ("host --cosched tag", &["--cosched"]),
        ("host --groups 0", &["--groups 0"]),
        ("host --tune slice=3", &["slice"]),
        ("host --preset throttle", &["a quota needs a cgroup"]),
        ("--kernel stump --load-cpus 7", &["--load-cpus", "CPU 7", "0 to 3"]),
        ("--kernel stump --pin 8000,8001,8002,8003", &["--pin", "8000", "this host has CPUs"]),
        ("--kernel stump --threshold 10us", &["--threshold", "--floor"]),
        ("--kernel missing", &["there is no kernel missing"]),
        ("--kernel stump --append \u{e4}", &["--append", "printable ASCII"]),
        ("boot --kernel stump --cpus 255", &["255 vCPUs", "give 1 to 254"]),
        ("boot --kernel stump --port a=x --port a=y", &["port name", "used twice"]),
        ("selftest --kernel missing", &["there is no kernel missing"]),
        ("trials 3 --kernel missing", &["there is no kernel missing"]),
        ("trials 3 --kernel stump --compat", &["--compat is of one run", "leave it out"]),
        ("--kernel stump --runs 3 --trace-file t", &["--trace-file is of one run"]),
        ("trials 0 --kernel stump", &["'0'", "1..=10000"]),
        ("trials --kernel stump", &["<N>"]),
        ("--kernel stump --until decided", &["--runs <N>"]),
        ("compare stump", &["nothing to compare it with", "--option-a"]),
        ("compare missing stump", &["there is no kernel missing"]),
        ("compare stump stump -- --seed 5", &["--seed is of the comparison", "before `--`"]),
        ("compare stump stump -- --threshold 9ms", &["--threshold 9ms ends runs", "leave it out"]),
        ("compare stump stump -- --no-such", &["--no-such"]),
        ("compare stump stump --option-a= --option-b=", &["two settings of one kernel"]),
        ("compare stump --option-a=' --option-b=", &["without its other one"]),
        ("show", &["results/latest", "name a result"]),
        ("show missing", &["missing", "cannot read"]),
        ("list missing", &["missing", "No such file"]),
    ] {
        let output = finish(start(dir.path(), words));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(200), "{words}: {output:?}");
        assert!(told.iter().all(|told| text.contains(told)), "{words}: {text}");
        assert!(output.stdout.is_empty(), "{words}: {output:?}");
        assert!(!dir.path().join("results").exists(), "{words} made a folder");
    }
}

/// What a user has no right to is the host's to give, and is found out before anything is made.
#[test]
fn rights_are_checked_before_a_folder_is_made() {
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().expect("tempdir");
    // Its own copy: the build's folder may be out of its reach.
    let program = dir.path().join("schedvmm");
    fs::copy(env!("CARGO_BIN_EXE_schedvmm"), &program).expect("copied");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("permitted");
    fs::write(dir.path().join("load.toml"), "[[group]]\n[[group]]\npolicy = \"rr:7\"\n")
        .expect("written");
    let mut command = Command::new(&program);
    command.args(["host", "--load", "load.toml"]).current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = finish(command.spawn().expect("it starts"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(201), "{text}");
    assert!(text.contains("group 2") && text.contains("policy rr:7"), "{text}");
    assert!(text.contains("CAP_SYS_NICE") && !dir.path().join("results").exists(), "{text}");
}

/// What a verb is called for is not lost without a word, unless its reader has had enough.
#[test]
fn an_answer_that_nothing_takes_is_an_error() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    fs::write(dir.join("vmlinux"), flat_kernel(0x100_0000, &[0xf4; 64])).expect("written");
    let output = finish(start(dir, &format!("{QUICK} --output results/one")));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for words in [
        "-h",
        "--help",
        "check --help",
        "--version",
        "config",
        "check vmlinux",
        "check vmlinux --json",
        "list",
        "show results/one",
        "report results/one --output -",
        "--list-presets",
    ] {
        let words: Vec<_> = words.split(' ').collect();
        let ended = |stdout: Stdio| {
            let output = finish(schedvmm(dir, &words).stdout(stdout).spawn().expect("it starts"));
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let full = fs::File::options().write(true).open("/dev/full").expect("there");
        let (status, text) = ended(full.into());
        assert_eq!(status, Some(201), "{words:?}: {text}");
        assert!(text.contains("cannot write to stdout: No space left"), "{words:?}: {text}");
        let (status, _) = ended(Stdio::null());
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let (closed, text) = ended(writer.into());
        assert_eq!(closed, status, "{words:?}: {text}");
        assert!(!text.contains("stdout"), "{words:?}: {text}");
    }
}

/// A kernel that lacks core scheduling passes nothing of it, and the run says so.
#[test]
fn a_pass_without_cookies_says_so() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let call = |folder: &str, cosched: &str| {
        let words = format!("{QUICK} --cosched {cosched} --output {folder}");
        judged(dir, folder, &finish(start(dir, &words)))
    };
    let (code, result, text) = call("auto", "auto");
    assert_eq!(code, 0, "{text}");
    let missing = result["cosched"]["mechanism"] == "none";
    println!("--cosched auto found {}", result["cosched"]["mechanism"]);
    assert_eq!(result["cosched"]["missing"], missing);
    let noted =
        result["notes"].to_string().contains("without cookies, for --cosched auto found none");
    assert_eq!(noted, missing, "{}", result["notes"]);
    assert_eq!(text.contains("verdict  PASS, without cookies: no gap over 20s"), missing, "{text}");
    assert_eq!(text.contains("verdict  PASS: no gap over 20s"), !missing, "{text}");
    // Asked for by name it is in force, or the kernel cannot be tested.
    let (code, result, text) = call("prctl", "prctl");
    assert_eq!(code, if missing { 125 } else { 0 }, "{text}");
    assert_eq!(result["verdict"], if missing { "untestable" } else { "pass" });
    // And nobody misses what was not wanted.
    let (code, result, text) = call("none", "none");
    assert_eq!((code, &result["cosched"]["missing"]), (0, &false.into()), "{text}");
    assert!(text.contains("cookies  none (as asked)"), "{text}");
    assert!(text.contains("verdict  PASS: no gap over 20s"), "{text}");
}
