// SPDX-License-Identifier: Apache-2.0
//! A group of cases that share one boot of the emulated host, or the simulated one.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tempfile::TempDir;
use testhost::host::accident::{Accident, HostLost, Retries};
use testhost::host::{Simulated, TestHost};

use crate::case::Case;
use crate::outcome::Outcome;

/// Tests this executable instead of a fresh build.
const EXECUTABLE_ENV: &str = "SCHEDVMM_TEST_EXECUTABLE";
/// Keeps what the cases wrote.
const KEEP_ENV: &str = "SCHEDVMM_TEST_KEEP";
/// Ends a case's script in the suite; no script contains it.
const END_OF_SCRIPT: &str = "END-OF-CASE";
/// The suite's exit status where the host's KVM runs no guest at all.
const NO_KVM: u8 = 99;
/// For the preparation of a group, beyond its cases' own limits.
const PREPARATION: Duration = Duration::from_secs(120);
/// A case ends itself within its limit; a host that is silent for longer stands still.
const SILENCE: Duration = Duration::from_secs(60);

/// A second of the simulated machine's own clock may take this many of ours, on a busy machine.
const SLOWER: u32 = 20;
/// Its memory: most of what it can have.
const SIMULATED_MEMORY_MIB: u32 = 2040;

/// Which kernel runs the host and is tested in it.
#[derive(Clone, Copy, Debug)]
pub enum TestKernel {
    /// 6.12: EEVDF.
    V612,
    /// 6.1: CFS.
    V61,
    /// The newest that Debian's package archives offer.
    Newest,
}

impl TestKernel {
    fn variable(self) -> &'static str {
        match self {
            Self::V612 => "SCHEDVMM_TEST_KERNEL_612",
            Self::V61 => "SCHEDVMM_TEST_KERNEL_61",
            Self::Newest => "SCHEDVMM_TEST_KERNEL_NEWEST",
        }
    }

    /// Its bzImage; an error names the variable.
    pub fn path(self) -> Result<PathBuf, String> {
        env::var_os(self.variable())
            .map(PathBuf::from)
            .ok_or_else(|| format!("{} is not set; run `cargo xtask test`", self.variable()))
    }
}

/// Cases that share a boot.
pub struct Group {
    name: &'static str,
    kernel: TestKernel,
    cases: Vec<Case>,
    prepare: fn(&Path) -> Result<Preparation, String>,
    simulated: Option<Simulated>,
}

/// What a group needs beside kernel and executable.
#[derive(Default)]
pub struct Preparation {
    /// Files for the host: path there, path here.
    pub files: Vec<(String, PathBuf)>,
    /// Executables with the shared libraries they need, likewise.
    pub executables: Vec<(&'static str, PathBuf)>,
    /// Shell words that run before the cases.
    pub script: String,
}

impl Group {
    /// Cases for this kernel.
    pub fn new(name: &'static str, kernel: TestKernel, cases: Vec<Case>) -> Self {
        Self { name, kernel, cases, prepare: |_| Ok(Preparation::default()), simulated: None }
    }

    /// With a preparation, made from the path of the kernel.
    pub fn prepared(self, prepare: fn(&Path) -> Result<Preparation, String>) -> Self {
        Self { prepare, ..self }
    }

    /// In this simulated machine. Time limits of its cases are by its own clock, and a case that
    /// fails has failed: there are no accidents.
    pub fn in_simulation(self, machine: Simulated) -> Self {
        Self { simulated: Some(machine), ..self }
    }

    /// One trial for each case that `args` do not filter out. The first to run boots the host
    /// for all of them; a case that failed, or met an accident of the emulation, is run once
    /// more, in a host of its own, and counted in `retries`.
    pub fn trials(mut self, args: &Arguments, retries: &Arc<Mutex<Retries>>) -> Vec<Trial> {
        let group = self.name;
        self.cases.retain(|case| {
            let named = Trial::test(format!("{group}::{}", case.name), || Ok(()));
            !args.is_filtered_out(&named)
        });
        let count = self.cases.len();
        let boot = Arc::new(Boot { group: self, ran: OnceLock::new(), retries: retries.clone() });
        (0..count)
            .map(|n| {
                let boot = Arc::clone(&boot);
                let name = format!("{group}::{}", boot.group.cases[n].name);
                Trial::ignorable_test(name, move || boot.judge(n))
            })
            .collect()
    }

    /// These cases as one script. Each has its own folder, its own process and its own time.
    fn suite(&self, prepare: &str, cases: &[Case]) -> String {
        let mut text = format!("schedvmm probe || exit {NO_KVM}\nmkdir -p /tmp/cases\n{prepare}\n");
        for Case { name, script, limit, .. } in cases {
            let seconds = limit.as_secs();
            // Writing to a String does not fail.
            let _ = write!(
                text,
                "echo {name}\ncat > /tmp/cases/{name} <<'{END_OF_SCRIPT}'\n{script}\n{END_OF_SCRIPT}\n\
                 mkdir -p /out/{name}; cd /out/{name}; begin=$(cut -d' ' -f1 /proc/uptime)\n\
                 timeout -s KILL {seconds} sh /tmp/cases/{name} > stdout 2> stderr < /dev/null\n\
                 echo $? > status; echo \"$begin $(cut -d' ' -f1 /proc/uptime)\" > times\n\
                 killall -9 schedvmm 2> /dev/null\n"
            );
        }
        text.push_str("exit 0\n");
        text
    }

    /// Boots the host and runs these cases in it; what they leave goes to folders in `into`.
    fn run(&self, cases: &[Case], into: &Path) -> Result<(), Broken> {
        let start = Instant::now();
        let kernel = self.kernel.path()?;
        let preparation = (self.prepare)(&kernel)?;
        let mut limit = cases.iter().map(|case| case.limit).sum::<Duration>() + PREPARATION;
        let longest = cases.iter().map(|case| case.limit).max().unwrap_or_default();
        let mut silence = longest.max(PREPARATION) + SILENCE;
        let mut host = TestHost::builder().kernel(kernel).out(into);
        if let Some(machine) = &self.simulated {
            (limit, silence) = (limit * SLOWER, silence * SLOWER);
            host = host.simulated(machine.clone()).memory_mib(SIMULATED_MEMORY_MIB);
        }
        host = host.timeout(limit).silence(silence);
        if let Some(executable) = env::var_os(EXECUTABLE_ENV) {
            host = host.schedvmm(executable);
        }
        for (there, here) in preparation.files {
            host = host.file(&there, here);
        }
        for (there, here) in preparation.executables {
            host = host.executable(there, here);
        }
        let mut told = Vec::new();
        let suite = self.suite(&preparation.script, cases);
        let run =
            host.run(["sh", "-c", &suite], |_, bytes| told.extend_from_slice(bytes)).map_err(
                |error| Broken { host_lost: error.is::<HostLost>(), reason: format!("{error:#}") },
            )?;
        let told = String::from_utf8_lossy(&told);
        match run.ended.code() {
            0 => {}
            NO_KVM => return Err(format!("the emulated host's KVM runs no guest: {told}").into()),
            code => return Err(format!("the suite ended with status {code}: {told}").into()),
        }
        let took = start.elapsed().as_secs_f64();
        let ticks = run.ticks.map(|ticks| format!(", {} million ticks", ticks / 1_000_000));
        let ticks = ticks.unwrap_or_default();
        println!("group {}: {} cases in {took:.1} s{ticks}", self.name, cases.len());
        Ok(())
    }
}

/// Why a group did not run to its end.
struct Broken {
    /// Because the emulation let down the host.
    host_lost: bool,
    reason: String,
}

impl From<String> for Broken {
    fn from(reason: String) -> Self {
        Self { host_lost: false, reason }
    }
}

/// A group and, once it has run, where its cases' folders are.
struct Boot {
    group: Group,
    ran: OnceLock<Result<Folders, String>>,
    retries: Arc<Mutex<Retries>>,
}

/// Where the cases' folders are.
struct Folders {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

impl Boot {
    fn judge(&self, n: usize) -> Result<Completion, Failed> {
        if let Err(reason) = self.group.kernel.path() {
            return Ok(Completion::ignored_with(reason));
        }
        let folders = self.ran.get_or_init(|| self.all()).as_ref()?;
        let case = &self.group.cases[n];
        if self.group.simulated.is_some() {
            return case.judge(&Outcome::read(&folders.path.join(&case.name), case.limit)?);
        }
        let retries = || self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        retries().cases += 1;
        let outcome = Outcome::read(&folders.path.join(&case.name), case.limit)?;
        let result = outcome.saved();
        let accident = result.as_ref().and_then(Accident::of);
        let accident = accident.filter(|is| Some(*is) != case.expects).zip(result);
        let failed = accident.is_none();
        let why = match (accident, case.judge(&outcome)) {
            (Some((_, result)), _) => format!("an accident of the emulation: {}", result.reason),
            (None, Err(failed)) => failed.message().unwrap_or("no reason").to_owned(),
            (None, judged) => return judged,
        };
        let room = retries().leave_room(failed);
        retries().retried += 1;
        retries().failed += usize::from(failed);
        if !room {
            return Err(format!("no more cases are run twice; this one after {why}").into());
        }
        println!("     {}: RETRIED after {why}", case.name);
        let again = Folders::make(&format!("{}-{}-again", self.group.name, case.name))?;
        self.group.run(&self.group.cases[n..=n], &again.path).map_err(|broken| broken.reason)?;
        case.judge(&Outcome::read(&again.path.join(&case.name), case.limit)?)
    }

    /// Runs the whole group, once more where the host was lost on the way.
    fn all(&self) -> Result<Folders, String> {
        let run = |name: &str| {
            let folders = Folders::make(name)?;
            self.group.run(&self.group.cases, &folders.path)?;
            Ok(folders)
        };
        run(self.group.name)
            .or_else(|broken: Broken| {
                if !broken.host_lost || self.group.simulated.is_some() {
                    return Err(broken);
                }
                self.retries.lock().unwrap_or_else(PoisonError::into_inner).retried += 1;
                println!(
                    "group {}: RETRIED, its host was lost: {}",
                    self.group.name, broken.reason
                );
                run(&format!("{}-again", self.group.name))
            })
            .map_err(|broken| broken.reason)
    }
}

impl Folders {
    fn make(group: &str) -> Result<Self, String> {
        match env::var_os(KEEP_ENV) {
            None => {
                let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
                Ok(Self { path: dir.path().to_owned(), _temporary: Some(dir) })
            }
            Some(keep) => {
                let path = PathBuf::from(keep).join(group);
                // What an earlier run left must not be taken for ours.
                let _ = fs::remove_dir_all(&path);
                fs::create_dir_all(&path).map_err(|error| error.to_string())?;
                Ok(Self { path, _temporary: None })
            }
        }
    }
}
