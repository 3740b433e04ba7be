// SPDX-License-Identifier: Apache-2.0
//! `schedvmm report`, as a user calls it, and its page as a browser shows it.

mod browser;
/// Trials that are made up.
#[path = "../compare/folders.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod folders;
#[path = "../traced/mod.rs"]
mod traced;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::browser::{Browser, Scheme};
use self::folders::Side;

/// Runs on Linux 6.12 in the emulated host, see data/README.md: of the default load;
const RESULT: &[u8] = include_bytes!("data/result.json.xz");
/// of two virtual machines, with its trace;
const NESTED: &[u8] = include_bytes!("data/nested.json.xz");
const NESTED_TRACE: &[u8] = include_bytes!("data/nested.dat.xz");
/// of two of which the second failed.
const DEGRADED: &[u8] = include_bytes!("data/degraded.json.xz");

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let browser = Browser::find();
    if browser.is_none() {
        println!(
            "skipped: no Chromium; install Debian's chromium, as `cargo xtask test` does, \
             or name one in CHROMIUM"
        );
    }
    let missing = browser.is_none();
    let seen = |name: &str, look: fn(&Browser) -> Result<(), Failed>| {
        let browser = browser.clone();
        let trial = Trial::test(name, move || browser.as_ref().map_or(Ok(()), look));
        trial.with_ignored_flag(missing)
    };
    let trials = vec![
        Trial::test("the_page_has_what_the_result_has", the_page_has_what_the_result_has),
        Trial::test("a_trace_explains_the_gap", a_trace_explains_the_gap),
        Trial::test("what_is_no_figure_is_not_called_one", what_is_no_figure_is_not_called_one),
        Trial::test("machines_have_a_table_and_lanes", machines_have_a_table_and_lanes),
        Trial::test("a_machine_that_failed_is_named", a_machine_that_failed_is_named),
        Trial::test("what_is_no_result_is_refused", what_is_no_result_is_refused),
        Trial::test("the_report_goes_where_it_is_told", the_report_goes_where_it_is_told),
        Trial::test("trials_beside_others_have_a_page", trials_beside_others_have_a_page),
        Trial::test("the_worst_gap_of_trials_is_explained", the_worst_gap_of_trials_is_explained),
        Trial::test("what_has_no_page_is_refused", what_has_no_page_is_refused),
        seen("a_browser_shows_the_page_and_loads_nothing", shown),
        seen("a_browser_that_loads_or_complains_is_noticed", noticed),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    liblzma::read::XzDecoder::new(packed).read_to_end(&mut bytes).expect("a file of ours");
    bytes
}

/// A result folder.
fn folder() -> TempDir {
    folder_of(RESULT)
}

/// A folder with this result.
fn folder_of(packed: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::write(dir.path().join("result.json"), unpack(packed)).expect("written");
    dir
}

/// A result folder of virtual machines, with their trace.
fn nested_folder() -> Result<TempDir, Failed> {
    let dir = folder_of(NESTED);
    fs::write(dir.path().join("trace.dat"), unpack(NESTED_TRACE))?;
    Ok(dir)
}

/// A result folder with a trace.
fn traced_folder() -> Result<TempDir, Failed> {
    Ok(traced::folder())
}

fn report(words: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_schedvmm"));
    command.arg("report").args(words).output().expect("it starts")
}

/// The page of the folder.
fn page(dir: &Path) -> Result<String, Failed> {
    let output = report(&[dir]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    check(output.status.code() == Some(0), &complaint)?;
    Ok(fs::read_to_string(dir.join("report.html"))?)
}

fn check(holds: bool, what: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn the_page_has_what_the_result_has() -> Result<(), Failed> {
    let dir = folder();
    let page = page(dir.path())?;
    let older = "all figures but the longest gap go on beyond";
    for words in ["OVER THRESHOLD", "6.12.", "Distribution of gaps", "group 8", "QEMU TCG", older] {
        check(page.contains(words), &format!("no {words:?} in the page"))?;
    }
    // Once, this was thread 4 of group 2: groups and threads were counted from 0.
    check(page.contains("group 3 thread 1 (tid 66), CPU 2"), "the gap's thread has no name")?;
    let left: Vec<_> = fs::read_dir(dir.path())?.map_while(Result::ok).collect();
    check(left.len() == 2, &format!("{left:?}"))
}

fn a_trace_explains_the_gap() -> Result<(), Failed> {
    let without = page(folder().path())?;
    check(without.contains("Not explained"), "an explanation out of nothing")?;
    let dir = traced_folder()?;
    let with = page(dir.path())?;
    let words =
        ["The core around", ">CPU 2<", ">CPU 3<", "they sum to the gap", " waited 613.8 ms: "];
    for words in words {
        check(with.contains(words), &format!("no {words:?} in the page"))?;
    }
    let pieces = with.matches("<rect class=\"p forced\"").count();
    check(pieces > 20, &format!("{pieces} pieces of forced idle"))?;
    // A lane has no more elements than pixels.
    check(with.len() < 1 << 20, &format!("{} bytes", with.len()))?;
    let file = dir.path().join("trace.dat");
    let others = traced::with_id(fs::read(&file)?, "00000000000000ff".parse().ok());
    fs::write(&file, others)?;
    let says = [
        "Not explained: ",
        "is the trace of another run: its identity is 00000000000000ff",
        traced::ID,
    ];
    let other = page(dir.path())?;
    check(says.iter().all(|words| other.contains(words)), "explained by another's trace")?;
    fs::write(&file, "no trace")?;
    check(page(dir.path())?.contains("Not explained: "), "a trace out of nothing")
}

const MS: u64 = 1_000_000;

/// A folder with the trials of two kernels, of which one is worse.
fn two_sides() -> Result<TempDir, Failed> {
    let dir = tempfile::tempdir()?;
    Side::new(10, 10 * MS).write(&dir.path().join("a"));
    Side::new(10, 15 * MS).write(&dir.path().join("b"));
    Ok(dir)
}

fn trials_beside_others_have_a_page() -> Result<(), Failed> {
    let dir = two_sides()?;
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let output = report(&[&a, &b, Path::new("--output"), Path::new("-")]);
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    check(output.status.success(), &String::from_utf8_lossy(&output.stderr))?;
    for words in [
        ">WORSE</h1>",
        "/b is worse than ",
        "signed rank p = 0.016)",
        "Every trial, in the order it ran",
        "gaps at least that long, of a run",
        "The longest gap of ",
        "Not explained: ",
        "kernel command line",
    ] {
        check(page.contains(words), &format!("no {words:?} in the page"))?;
    }
    let points = |class: &str| page.matches(&format!("<circle class=\"p {class}\"")).count();
    check((points("g0"), points("g1")) == (10, 10), "not a point for each trial")?;
    check(page.matches("rect class=\"p faint\"").count() == 2, "not an interval for each side")?;
    // The names of pictures' parts are each there once.
    let ids: Vec<_> = page.split(" id=\"").skip(1).filter_map(|it| it.split('"').next()).collect();
    let once: std::collections::BTreeSet<_> = ids.iter().collect();
    check(once.len() == ids.len(), &format!("{ids:?}"))?;
    check(!page.contains("<script") && !a.join("report.html").exists(), "more than a page")?;
    // The folder of a comparison has the same, under the names that its sides had.
    let mut compare = Command::new(env!("CARGO_BIN_EXE_schedvmm"));
    let json = compare.args(["compare", "a", "b", "--json"]).current_dir(dir.path()).output()?;
    fs::write(dir.path().join("comparison.json"), &json.stdout)?;
    let output = report(&[dir.path()]);
    check(output.status.success(), &String::from_utf8_lossy(&output.stderr))?;
    let whole = fs::read_to_string(dir.path().join("report.html"))?;
    check(
        whole.contains(">WORSE</h1>") && whole.contains(">b is worse than a: wait-p99"),
        "no page",
    )
}

fn the_worst_gap_of_trials_is_explained() -> Result<(), Failed> {
    let dir = two_sides()?;
    let traced = traced_folder()?;
    let third = dir.path().join("a/trial-003");
    fs::remove_dir_all(&third)?;
    fs::rename(traced.path(), &third)?;
    let page = page(&dir.path().join("a"))?;
    for words in [">TRIALS</h1>", "wait-p99: median ", "Trial 3.", " waited 613.8 ms: ", ">CPU 2<"]
    {
        check(page.contains(words), &format!("no {words:?} in the page"))?;
    }
    check(page.contains("id=\"timeline-title-0\""), "a picture without a name of its own")
}

fn what_has_no_page_is_refused() -> Result<(), Failed> {
    let dir = two_sides()?;
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let refused = |words: &[&Path], told: &str| {
        let output = report(words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        check(output.status.code() == Some(200) && text.contains(told), &text)
    };
    refused(&[&a, &a], "is named twice")?;
    refused(&[&a, folder().path()], "name a folder of `schedvmm trials`")?;
    fs::write(b.join("trials.json"), "{")?;
    refused(&[&a, &b], "is no trials.json of schedvmm")?;
    fs::write(b.join("comparison.json"), "{")?;
    refused(&[&b], "is no comparison.json")?;
    fs::remove_file(b.join("comparison.json"))?;
    fs::remove_file(b.join("trials.json"))?;
    fs::write(b.join("matrix.json"), "{")?;
    refused(&[&b], "is no matrix.json")
}

/// Changes the result of a folder.
fn change(dir: &Path, change: impl FnOnce(&mut Value)) -> Result<(), Failed> {
    let file = dir.join("result.json");
    let mut result: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    change(&mut result);
    Ok(fs::write(&file, result.to_string())?)
}

fn what_is_no_figure_is_not_called_one() -> Result<(), Failed> {
    let dir = traced_folder()?;
    change(dir.path(), |result| {
        result["cosched"]["mechanism"] = "prctl".into();
        result["forced_idle"] =
            json!({ "ns": 428_400_000, "share": 0.23, "source": "cgroup", "note": null });
        result["co_run"] = json!({ "running_ns": 1_000_000_000, "mate": 0.1, "stranger": 0.875,
            "idle": 0.025, "unknown": 0.0 });
    })?;
    let cores = ["428.4 ms, 23.0 %", "a stranger", "87.5 %"];
    let figures = page(dir.path())?;
    for words in cores {
        check(figures.contains(words), &format!("no {words:?} in the page"))?;
    }
    check(!figures.contains("no measurements here"), "doubts out of nothing")?;
    change(dir.path(), |result| {
        result["core_figures"] =
            json!({ "measured": false, "reason": "this host's CPUs are emulated" });
        result["too_short"] = "it lasted 458.0 ms, less than a second".into();
        result["after_hit"] = json!({ "gaps": 3, "longest_ns": 299_900_000, "longest": null });
    })?;
    let page = page(dir.path())?;
    let doubt = "no measurements here: </strong>this host's CPUs are emulated.";
    check(page.matches(doubt).count() == 2, "beside the causes of the gap, and beside cores")?;
    for words in [
        "after the hit: 3, longest 299.9 ms",
        "<span>run too short</span>",
        "shares: it lasted 458.0 ms, less than a second.",
    ] {
        check(page.contains(words), &format!("no {words:?} in the page"))?;
    }
    Ok(())
}

fn machines_have_a_table_and_lanes() -> Result<(), Failed> {
    let page = page(nested_folder()?.path())?;
    let result: Value = serde_json::from_slice(&unpack(NESTED))?;
    let vms = result["vms"].as_array().ok_or("no machines")?;
    check(vms.len() == 2 && page.contains("Virtual machines"), "no table of machines")?;
    for vm in vms {
        let cookie = vm["threads"][0]["cookie"].as_u64().ok_or("no cookie")?;
        let mib = vm["pss_kib"].as_u64().ok_or("no memory")? >> 10;
        let row = page.split("<tr>").find(|row| row.contains(&format!("{cookie:x}</td>")));
        let row = row.ok_or("a machine is not in the table")?;
        for words in [format!("VM {}", vm["vm"]), format!("{mib} MiB"), "rdtsc".to_owned()] {
            check(row.contains(&words), &format!("no {words:?} in {row}"))?;
        }
    }
    // A lane for each machine, and why the vCPU waited: it is the one over the threshold.
    for words in [">VM 1</text>", ">VM 2</text>", ">CPU 2<", "VM 2 vCPU 0 waited 18.5 ms: "] {
        check(page.contains(words), &format!("no {words:?} in the page"))?;
    }
    check(!page.contains("longest by design"), "an expectation where there is none")
}

fn a_machine_that_failed_is_named() -> Result<(), Failed> {
    let page = page(folder_of(DEGRADED).path())?;
    for words in ["UNTESTABLE", "degraded: VM 2", "before its PID 1", "Kernel panic", ">failed<"] {
        check(page.contains(words), &format!("no {words:?} in the page"))?;
    }
    Ok(())
}

fn what_is_no_result_is_refused() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let refused = |path: &Path, words: &str| {
        let output = report(&[path]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        check(output.status.code() == Some(200) && text.contains(words), &text)
    };
    refused(dir.path(), "cannot read")?;
    let file = dir.path().join("result.json");
    for (text, words) in [
        ("{", "no result.json"),
        ("[]", "is of schema"),
        (r#"{"schema": "other/9"}"#, "other/9"),
        (r#"{"schema": "schedvmm-result/1", "threads": 7}"#, "no result.json"),
        (r#"{"schema": "schedvmm-result/2", "threads": 7}"#, "no result.json"),
        (r#"{"schema": "schedvmm-result/4", "threads": 7}"#, "no result.json"),
    ] {
        fs::write(&file, text)?;
        refused(&file, words)?;
    }
    fs::write(&file, [0xFF, 0xFE])?;
    refused(dir.path(), "cannot read")
}

fn the_report_goes_where_it_is_told() -> Result<(), Failed> {
    let dir = folder();
    let result = dir.path().join("result.json");
    let there = dir.path().join("there.html");
    let output = report(&[&result, Path::new("--output"), &there]);
    check(output.status.success() && there.exists(), &format!("{output:?}"))?;
    let output = report(&[&result, Path::new("--output"), Path::new("-")]);
    let whole = output.status.success() && output.stdout == fs::read(&there)?;
    check(whole && !Path::new("-").exists(), "stdout has the page, and no file is called -")?;
    let nowhere = dir.path().join("no/folder/x.html");
    let output = report(&[&result, Path::new("--output"), &nowhere]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    check(output.status.code() == Some(200) && text.contains("cannot write"), &text)
}

/// Light and dark, wide and narrow: something is drawn, in many colours; no complaint, no
/// request.
fn shown(browser: &Browser) -> Result<(), Failed> {
    let dir = traced_folder()?;
    page(dir.path())?;
    let file = dir.path().join("report.html");
    let mut grounds = Vec::new();
    for (scheme, size) in [(Scheme::Light, (1200, 2400)), (Scheme::Dark, (400, 2400))] {
        let look = browser.look(&file, scheme, size)?;
        check(look.complaints.is_empty(), &format!("{:?}", look.complaints))?;
        check(look.requests.is_empty(), &format!("{:?}", look.requests))?;
        let colours = look.picture.colours();
        check(colours > 50, &format!("{colours} colours: not much can be seen"))?;
        grounds.push(look.picture.ground());
    }
    let [light, dark] = grounds[..] else { return Err("two looks".into()) };
    check(light > 600 && dark < 150, &format!("grounds are {light} and {dark}"))
}

/// The looks above can fail.
fn noticed(browser: &Browser) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("bad.html");
    let image = "<img src='http://127.0.0.1:9/x.png' style='visibility:hidden'>";
    fs::write(&file, format!("<body>{image}<script>console.error('oh no')</script></body>"))?;
    let look = browser.look(&file, Scheme::Light, (400, 400))?;
    check(look.requests.iter().any(|url| url.contains("127.0.0.1")), "the request was missed")?;
    let complained = look.complaints.iter().any(|line| line.contains("oh no"));
    check(complained, &format!("the complaint was missed: {:?}", look.complaints))?;
    check(look.picture.colours() < 50, "an empty page has colours")
}
