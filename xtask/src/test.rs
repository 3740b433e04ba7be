// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: everything that CI checks, in one command. A step that fails does not
//! keep the others from running.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use results::selftest::{Selftest, Status};
use serde::Deserialize;

use testhost::host::accident::Retries;
use testhost::kernel::{self, Series, Variant, Wanted};
use testhost::setup::Tool;
use testhost::venue::Venue;
use testhost::{artifacts, process, project, setup};

/// The test kernels, and what tests know them by: the one most cases run on, an old one with
/// CFS, and the newest there is.
const KERNELS: [(Wanted, &str); 3] = [
    (Wanted::Series(Series::HOST), "SCHEDVMM_TEST_KERNEL_612"),
    (Wanted::Series(Series::CFS), "SCHEDVMM_TEST_KERNEL_61"),
    (Wanted::Newest, "SCHEDVMM_TEST_KERNEL_NEWEST"),
];
/// Kernels without virtio-mmio, and what tests know them by: with the console's driver as a module,
/// and with that built in.
const VARIANTS: [(Variant, &str); 2] =
    [(Variant::Redhat, "SCHEDVMM_TEST_KERNEL_REDHAT"), (Variant::Pci, "SCHEDVMM_TEST_KERNEL_PCI")];
/// Kernels as a distribution ships them, which need their modules: of a series before the drivers
/// were built in, and the newest.
const STOCK: [(Wanted, &str); 2] = [
    (Wanted::Series(Series::CFS), "SCHEDVMM_TEST_STOCK_OLDEST"),
    (Wanted::Newest, "SCHEDVMM_TEST_STOCK_NEWEST"),
];
/// Its flavour for virtual machines, which has the fewest modules.
const FLAVOUR: &str = "cloud";

/// The test program whose cases run in the emulated host.
const REAL_KERNEL: &str = "real_kernel";

/// Its group whose cases run in the simulated host.
const SIMULATED: &str = "intel::";

/// A step that has printed nothing for so long hangs. A group of cases with real kernels prints
/// when it is over; how long all of a step takes is up to the machine.
const SILENCE: Duration = Duration::from_secs(25 * 60);
/// What only prints a little takes no longer unless it hangs.
const DEADLINE: Duration = Duration::from_secs(5 * 60);

/// What statistics are compared with; the test skips itself where it is missing.
const NUMPY: &[&str] = &["python3-numpy"];

/// What looks at reports; the test skips itself where it is missing.
const BROWSER: &[&str] = &["chromium", "fonts-dejavu-core"];

/// How a step shows what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It passes or fails as a whole.
    Check,
    /// Its output counts tests.
    Tests,
}

/// Numbers of passed, failed and skipped cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Checks and tests that passed.
    pub passed: u64,
    /// Checks and tests that failed.
    pub failed: u64,
    /// Tests that could not be tried here; each says why in its own output.
    pub skipped: u64,
    /// Tests that were run once more: in emulation one failure may be chance.
    pub retried: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped, retried } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")?;
        if *retried > 0 {
            write!(f, ", {retried} retried")?;
        }
        Ok(())
    }
}

/// Runs every step; the sum of them all.
pub fn run() -> Result<Tally> {
    let schedvmm = artifacts::schedvmm()?;
    println!("{}", of_this_machine(Venue::detect(&schedvmm)?));
    let mut report = Report::default();
    check_sources(&mut report);
    set_up(&mut report);
    // Before all tests: some outside the emulated host read these kernels, too.
    let kernels = kernels(&mut report);
    for (name, mut tests) in workspace_tests()? {
        tests.envs(kernels.iter().cloned());
        // A run fails for what changed in the project, not for the numbers that were drawn.
        tests.env("PROPTEST_RNG_SEED", "1");
        report.command(name, Kind::Tests, tests);
    }
    report.command(
        "examples in documentation",
        Kind::Tests,
        cargo(&["test", "--workspace", "--doc"]),
    );

    report.step("self-test of the meter on this machine", || selftest(&schedvmm));

    for (name, words) in [
        ("real kernels in the emulated host", &["--skip", SIMULATED][..]),
        ("real kernels in the simulated host", &[SIMULATED]),
    ] {
        let mut real = cargo(&["test", "--package", "schedvmm", "--test", REAL_KERNEL, "--"]);
        real.args(words).env(artifacts::XTASK_ENV, std::env::current_exe()?);
        // One executable for all cases, even if somebody works on the sources meanwhile.
        real.env("SCHEDVMM_TEST_EXECUTABLE", &schedvmm).envs(kernels.iter().cloned());
        report.command(name, Kind::Tests, real);
    }
    report.print();
    Ok(report.sum())
}

/// Where what runs: cases with real kernels find the same machines everywhere.
fn of_this_machine(venue: Venue) -> String {
    let own = match venue {
        Venue::Emulated(Some(reason)) => format!("cannot run Linux: {reason}"),
        _ => "can run Linux".into(),
    };
    format!(
        "real kernels run in the emulated and in the simulated host; this machine's own KVM {own}"
    )
}

/// What is read, and not run.
fn check_sources(report: &mut Report) {
    report.command("format", Kind::Check, cargo(&["fmt", "--all", "--check"]));
    report.command(
        "lints",
        Kind::Check,
        cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    );
    report.tool(setup::DENY, "licences and sources of dependencies", |deny| {
        let mut check = Command::new(deny);
        check.args(["check", "bans", "licenses", "sources"]);
        check
    });
    report.tool(setup::TYPOS, "spelling", |typos| Command::new(typos));
    let mut doc = cargo(&["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    report.command("documentation", Kind::Check, doc);
}

/// What tests need of this machine.
fn set_up(report: &mut Report) {
    report.step("programs for tests", || {
        setup::ensure(setup::TEST_READERS)?;
        Ok(Tally { passed: 1, ..Tally::default() })
    });
    if let Err(error) = setup::ensure(NUMPY) {
        println!("statistics will not be compared with NumPy: {error:#}");
    }
    if let Err(error) = setup::ensure(BROWSER) {
        println!("no browser will look at reports: {error:#}");
    }
}

/// Kernels that tests boot, with the variables that tell where they are.
fn kernels(report: &mut Report) -> Vec<(&'static str, PathBuf)> {
    let mut kernels = Vec::new();
    for (wanted, variable) in KERNELS {
        report.step(&format!("test kernel {wanted}"), || {
            kernels.push((variable, kernel::ensure(wanted)?));
            Ok(Tally { passed: 1, ..Tally::default() })
        });
    }
    for (variant, variable) in VARIANTS {
        report.step(&format!("test kernel like {variant}"), || {
            kernels.push((variable, kernel::ensure_variant(Wanted::default(), variant)?));
            Ok(Tally { passed: 1, ..Tally::default() })
        });
    }
    for (wanted, variable) in STOCK {
        report.step(&format!("{wanted} {FLAVOUR} kernel of the distribution"), || {
            kernels.push((variable, kernel::stock(wanted, FLAVOUR)?.folder));
            Ok(Tally { passed: 1, ..Tally::default() })
        });
    }
    kernels
}

/// Every case of the self-test is a test.
fn selftest(schedvmm: &Path) -> Result<Tally> {
    let mut command = Command::new(schedvmm);
    command.args(["selftest", "--json"]);
    let (status, text) = process::capture(&mut command, DEADLINE)?;
    println!("{}", text.trim_end());
    let report: Selftest = serde_json::from_str(&text)
        .with_context(|| format!("`schedvmm selftest --json` ended with {status}, no JSON"))?;
    let (tally, passed) = (tally_of(&report), report.passed);
    ensure!(status.success() == passed, "it ended with {status} and passed is {passed}");
    ensure!(!passed || tally.failed == 0, "it passed, and says {tally}");
    Ok(tally)
}

/// Counts the cases of a self-test's report.
fn tally_of(report: &Selftest) -> Tally {
    // A machine that is too busy to tell fails nothing, and is no pass either.
    for case in report.cases.iter().filter(|case| case.status == Status::NotJudged) {
        println!("skipped: {} was not judged: {}", case.name, case.reason);
    }
    let [passed, failed, skipped, not_judged] =
        [Status::Passed, Status::Failed, Status::Skipped, Status::NotJudged]
            .map(|status| report.count(status) as u64);
    Tally { passed, failed, skipped: skipped + not_judged, ..Tally::default() }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = artifacts::cargo();
    command.args(arguments);
    command
}

/// All tests but those with real kernels in the emulated host, which have a step of their own.
/// With nextest where it is installed: it runs every test in a process of its own.
fn workspace_tests() -> Result<Vec<(&'static str, Command)>> {
    let mut version = cargo(&["nextest", "--version"]);
    version.stderr(Stdio::null());
    let nextest = process::capture(&mut version, DEADLINE);
    if nextest.is_ok_and(|(status, _)| status.success()) {
        let rest = format!("not binary({REAL_KERNEL})");
        let all = cargo(&["nextest", "run", "--workspace", "--no-fail-fast", "-E", &rest]);
        return Ok(vec![("tests", all)]);
    }
    // Plain `cargo test` can leave out a package, but no single test program.
    let mut others = cargo(&["test", "--workspace", "--exclude", "schedvmm", "--no-fail-fast"]);
    others.args(["--lib", "--bins", "--tests"]);
    let mut ours = cargo(&["test", "--package", "schedvmm", "--bins", "--no-fail-fast"]);
    for test in test_programs()? {
        ours.args(["--test", &test]);
    }
    Ok(vec![("tests", others), ("tests of the command", ours)])
}

/// The command's test programs, but for the one whose cases run in the emulated host: those that
/// Cargo itself knows, so that none is forgotten.
fn test_programs() -> Result<Vec<String>> {
    let mut command = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let (status, text) = process::capture(&mut command, DEADLINE)?;
    ensure!(status.success(), "`cargo metadata` ended with {status}");
    let metadata: Metadata =
        serde_json::from_str(&text).context("`cargo metadata` is not what it should be")?;
    let ours = metadata.packages.into_iter().filter(|package| package.name == "schedvmm");
    let tests = ours.flat_map(|package| package.targets).filter(|target| target.kind == ["test"]);
    Ok(tests.map(|target| target.name).filter(|name| name != REAL_KERNEL).collect())
}

/// What `cargo metadata` prints, as far as it is used.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The steps that have run.
#[derive(Default)]
struct Report {
    steps: Vec<(String, Duration, Tally)>,
}

impl Report {
    /// Runs one step that is a command.
    fn command(&mut self, name: &str, kind: Kind, mut command: Command) {
        self.step(name, || {
            let mut tally = Tally::default();
            let status = process::run_shown(&mut command, name, SILENCE, |line| {
                if kind == Kind::Tests {
                    tally = tally + count(line);
                }
            })?;
            if status.success() && kind == Kind::Check {
                tally.passed += 1;
            }
            // A failure that no test accounts for: it did not compile, or it crashed.
            if !status.success() && tally.failed == 0 {
                tally.failed += 1;
            }
            Ok(tally)
        });
    }

    /// A check by a tool of cargo's, which is built first if it is not there.
    fn tool(&mut self, tool: Tool, name: &str, command: impl FnOnce(&Path) -> Command) {
        match tool.ensure() {
            Ok(executable) => {
                let mut command = command(&executable);
                command.current_dir(project::root());
                self.command(name, Kind::Check, command);
            }
            Err(error) => self.step(name, || Err(error)),
        }
    }

    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Tally>) {
        println!("\n== {name}");
        let start = Instant::now();
        let tally = work().unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Tally { failed: 1, ..Tally::default() }
        });
        println!("== {name}: {tally} ({:.1} s)", start.elapsed().as_secs_f64());
        self.steps.push((name.into(), start.elapsed(), tally));
    }

    fn sum(&self) -> Tally {
        self.steps.iter().fold(Tally::default(), |sum, (_, _, tally)| sum + *tally)
    }

    fn print(&self) {
        println!("\n{:<36}{:>9}  result", "step", "seconds");
        for (name, time, tally) in &self.steps {
            let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
            println!("{name:<36}{:>9.1}  {verdict}: {tally}", time.as_secs_f64());
        }
        println!("{}", self.sum());
    }
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
            retried: self.retried + other.retried,
        }
    }
}

/// Reads the summary lines of libtest (`test result: ok. 3 passed; 0 failed; 1 ignored; …`)
/// and nextest (`Summary [ 0.5s] 4 tests run: 3 passed (1 slow), 1 timed out, 1 skipped`), and
/// that of the cases in the emulated host. What is set in further is the output of a test that
/// failed, which nextest shows and has in its own summary.
fn count(line: &str) -> Tally {
    if line.starts_with("    test result: ") {
        return Tally::default();
    }
    let line = line.trim();
    if let Some(retried) = Retries::in_summary(line) {
        return Tally { retried, ..Tally::default() };
    }
    let counts = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ").map(|(_, counts)| counts),
        None if line.starts_with("Summary [") => {
            line.split_once(" run: ").map(|(_, counts)| counts)
        }
        None => None,
    };
    let mut tally = Tally::default();
    for part in counts.unwrap_or_default().split([';', ',']) {
        let mut words = part.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
        match words.next() {
            Some("passed") => tally.passed += number,
            Some("failed" | "timed" | "exec") => tally.failed += number,
            Some("ignored" | "skipped") => tally.skipped += number,
            _ => {}
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use protocol::noise::NoiseFloor;
    use results::model::CallerFacts;
    use results::selftest::Case;

    use super::*;

    #[test]
    fn no_test_program_is_forgotten() {
        let programs = test_programs().expect("cargo metadata");
        let folder = testhost::project::root().join("schedvmm/tests");
        for entry in std::fs::read_dir(folder).expect("the folder of tests") {
            let path = entry.expect("an entry").path();
            // A folder with a main of its own, or a file, is a program.
            if !path.join("main.rs").exists() && path.extension().is_none() {
                continue;
            }
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
            assert!(
                name == REAL_KERNEL || programs.iter().any(|program| program == name),
                "{name}"
            );
        }
        assert!(!programs.is_empty());
    }

    #[test]
    fn summaries_are_counted() {
        let tally = |passed, failed, skipped| Tally { passed, failed, skipped, retried: 0 };
        let libtest = "test result: FAILED. 20 passed; 2 failed; 1 ignored; 0 measured; \
                       3 filtered out; finished in 0.67s";
        assert_eq!(count(libtest), tally(20, 2, 1));
        let nextest = "     Summary [   1.275s] 30 tests run: 27 passed (1 slow), 2 failed, \
                       1 timed out, 4 skipped";
        assert_eq!(count(nextest), tally(27, 3, 4));
        assert_eq!(count("     Summary [ 0.1s] 5 tests run: 5 passed, 0 skipped"), tally(5, 0, 0));
        let retries = Retries { cases: 80, retried: 2, failed: 1 };
        assert_eq!(count(&retries.to_string()), Tally { retried: 2, ..Tally::default() });
        let shown = "    test result: FAILED. 0 passed; 1 failed; 0 ignored";
        for other in ["", shown, "20 passed; 3 failed", "test archive::tests ... ok"] {
            assert_eq!(count(other), Tally::default());
        }
    }

    #[test]
    fn every_case_of_the_self_test_counts() {
        use Status::{Failed, NotJudged, Passed, Skipped};
        let cases = [Passed, Skipped, Passed, Failed, NotJudged]
            .map(|status| Case { status, ..Case::skipped("x", "") });
        let report = Selftest::of(cases.to_vec(), 3, NoiseFloor::default(), CallerFacts::default());
        let tally = tally_of(&report);
        assert_eq!(tally, Tally { passed: 2, failed: 1, skipped: 2, retried: 0 });
        let text = serde_json::to_string(&report).unwrap();
        let read: Selftest = serde_json::from_str(&text).unwrap();
        assert_eq!(tally_of(&read), tally);
        for bad in [&text.replace("\"failed\"", "\"perhaps\""), "{}"] {
            assert!(serde_json::from_str::<Selftest>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_line_is_plain() {
        let tally = Tally { passed: 7, failed: 0, skipped: 2, retried: 0 };
        assert_eq!(tally.to_string(), "7 passed, 0 failed, 2 skipped");
        let tally = Tally { retried: 1, ..tally };
        assert_eq!(tally.to_string(), "7 passed, 0 failed, 2 skipped, 1 retried");
    }

    #[test]
    fn a_command_that_dies_without_counting_has_failed() {
        let mut report = Report::default();
        report.command("dies", Kind::Tests, Command::new("false"));
        report.command("is missing", Kind::Check, Command::new("/nonexistent"));
        report.command("passes", Kind::Check, Command::new("true"));
        assert_eq!(report.sum(), Tally { passed: 1, failed: 2, ..Tally::default() });
    }
}
