// SPDX-License-Identifier: Apache-2.0
//! Kernels of commits: built in a work tree of their own, and kept.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use results::folder::FolderError;
use rustix::process::{self, Pid, Signal};

use super::git::{Git, VARIABLES};
use crate::signals;
use crate::status::{ExitStatus as OurStatus, Failure};
use crate::{kernel, terminal};

/// The word by which the program starts itself to become the shell of a build.
const SHELL_COMMAND: &str = "build-shell";
/// From this status on a command of a build ends the search, as with `git bisect run`.
const ENDS_ALL: i32 = 128;
/// How often it is asked whether a build has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A build that was told to end has so long to remove what it has not finished.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Where less is free, a build has failed for want of it.
const MIN_FREE_BYTES: u64 = 16 << 20;
/// Of a log, so much is looked at for a full disk.
const TAIL_BYTES: u64 = 16 << 10;
/// How a full disk is told in it.
const FULL: [&str; 2] = ["No space left on device", "Disk quota exceeded"];

/// What a build came to.
#[derive(Debug)]
pub struct Made {
    /// How long it took.
    pub took: Duration,
    /// Why there is no kernel; `None` if there is one.
    pub why_not: Option<String>,
}

/// Builds kernels.
pub struct Builder {
    git: Git,
    /// The search's folder, by its full path.
    folder: PathBuf,
    recipe: Recipe,
    timeout: Duration,
}

/// What a kernel is made of beside its commit.
pub struct Recipe {
    /// For a shell.
    pub command: String,
    /// The configuration, if there is one.
    pub config: Option<Vec<u8>>,
    /// Checksum of both.
    pub checksum: String,
}

impl Builder {
    /// In a search's folder, which exists.
    ///
    /// # Errors
    /// It does not.
    pub fn new(
        git: Git,
        folder: &Path,
        recipe: Recipe,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let folder = folder
            .canonicalize()
            .map_err(|source| FolderError::Create { path: folder.to_owned(), source })?;
        Ok(Self { git, folder, recipe, timeout })
    }

    /// Where the history is.
    pub fn git(&self) -> &Git {
        &self.git
    }

    /// The folder of a commit's kernel. Another recipe, another folder.
    fn place(&self, commit: &str) -> PathBuf {
        let recipe = self.recipe.checksum.get(..12).unwrap_or_default();
        self.folder.join(format!("kernels/{commit}-{recipe}"))
    }

    /// A commit's kernel, if it is there.
    pub fn kernel(&self, commit: &str) -> Option<PathBuf> {
        Some(self.place(commit).join("bzImage")).filter(|kernel| kernel.is_file())
    }

    /// The work tree.
    fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// Removes the work tree; kernels and logs stay.
    pub fn end(&self) {
        self.git.forget(&self.tree());
    }

    /// Builds a commit's kernel.
    ///
    /// # Errors
    /// It was not the commit's fault: the disk is full, the command was ended, git cannot. `Ok(None)` if a
    /// signal has come.
    pub fn build(&self, commit: &str) -> Result<Option<Made>, Failure> {
        let begin = Instant::now();
        let place = self.place(commit);
        fs::create_dir_all(&place)
            .map_err(|source| FolderError::Create { path: place.clone(), source })?;
        let lock = self.lock()?;
        let tree = self.tree();
        self.git.make_place(&tree, commit)?;
        // What an earlier commit's build has left is no kernel of this one.
        while let Ok(path) = kernel::in_folder(&tree) {
            fs::remove_file(&path).map_err(|source| FolderError::Write { path, source })?;
        }
        // Nor is its configuration, where this one is to make its own. A committed one comes back.
        for name in [".config", ".config.old"] {
            remove(tree.join(name))?;
        }
        self.git.check_out(&tree, commit, &lock)?;
        if let Some(config) = &self.recipe.config {
            write(&tree.join(".config"), config)?;
        }
        let log = place.join("build.log");
        let Some(ended) = self.run(&tree, &log, lock)? else { return Ok(None) };
        let why_not = self.judge(ended, &tree, &place)?;
        Ok(Some(Made { took: begin.elapsed(), why_not }))
    }

    /// Nobody else builds in the work tree: what a killed call has left behind holds this file open.
    fn lock(&self) -> Result<File, Failure> {
        let path = self.folder.join("tree.lock");
        let failed = |source| FolderError::Write { path: path.clone(), source };
        File::options().append(true).create(true).open(&path).map_err(failed)?;
        let file = File::open(&path).map_err(failed)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Failure::request(format!(
                "a build of an earlier call still goes on in {}; wait until it has ended, or end it",
                self.tree().display()
            ))),
            _ => Ok(file),
        }
    }

    /// Runs the command; `None` if a signal has come, or `Some(None)` if it took too long.
    fn run(
        &self,
        tree: &Path,
        log: &Path,
        lock: File,
    ) -> Result<Option<Option<ExitStatus>>, Failure> {
        let failed = |source| FolderError::Write { path: log.to_owned(), source };
        let out = File::create(log).map_err(failed)?;
        let errors = out.try_clone().map_err(failed)?;
        let mut shell = Command::new("/proc/self/exe");
        shell.arg(SHELL_COMMAND).arg(&self.recipe.command).current_dir(tree);
        shell.stdin(lock).stdout(out).stderr(errors).process_group(0);
        for variable in VARIABLES {
            shell.env_remove(variable);
        }
        let child = shell.spawn().map_err(|error| {
            Failure::host(format!("cannot start a shell for the build: {error}; free memory"))
        })?;
        let mut build = Build { child };
        let begin = Instant::now();
        loop {
            if let Some(status) = build.ended()? {
                return Ok(Some(Some(status)));
            }
            if signals::received().is_some() {
                return Ok(None);
            }
            if begin.elapsed() > self.timeout {
                return Ok(Some(None));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Keeps the kernel, or says why there is none.
    fn judge(
        &self,
        ended: Option<ExitStatus>,
        tree: &Path,
        place: &Path,
    ) -> Result<Option<String>, Failure> {
        let log = place.join("build.log");
        let see = format!("see {}", log.display());
        let Some(status) = ended else {
            return Ok(Some(format!("its build took longer than {:?}; {see}", self.timeout)));
        };
        if !status.success() && is_full(tree, &log) {
            return Err(Failure::host(format!(
                "the disk of {} is full: a build failed; make room and make the same call again with \
                 --output: what was measured is kept",
                tree.display()
            )));
        }
        match (status.code(), status.signal()) {
            (Some(0), _) => {}
            (Some(code), _) if code < ENDS_ALL => {
                return Ok(Some(format!("its build failed with status {code}; {see}")));
            }
            (code, signal) => {
                let how = match (code, signal) {
                    (Some(code), _) => format!("status {code}"),
                    (_, signal) => format!("signal {}", signal.unwrap_or(0)),
                };
                return Err(Failure::host(format!(
                    "a build ended with {how}, which is no commit's fault; {see}, and make the same call \
                     again"
                )));
            }
        }
        keep(tree, place).map(|why| why.map(|why| format!("{why}; {see}")))
    }
}

/// Moves what was built to where it is kept.
fn keep(tree: &Path, place: &Path) -> Result<Option<String>, Failure> {
    let built = match kernel::open(tree, &[]) {
        Ok(built) => built.path,
        Err(failure) => return Ok(Some(format!("its build left no kernel: {failure}"))),
    };
    let (config, kept) = (tree.join(".config"), place.join("config"));
    if config.is_file() {
        copy(&config, &kept)?;
    }
    copy(&built, &place.join("bzImage")).map(|()| None)
}

/// Removes a file, if it is there.
fn remove(path: PathBuf) -> Result<(), Failure> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FolderError::Write { path, source }.into())
        }
        _ => Ok(()),
    }
}

/// A copy that is there whole or not at all, also after a power cut.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let part = to.with_extension("part");
    let synced = fs::copy(from, &part).and_then(|_| File::open(&part)?.sync_all());
    let copied = synced.and_then(|()| fs::rename(&part, to));
    copied.map_err(|source| {
        // Nothing of use is in it.
        let _ = fs::remove_file(&part);
        unkept(FolderError::Write { path: to.to_owned(), source })
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes)
        .map_err(|source| unkept(FolderError::Write { path: path.to_owned(), source }))
}

/// A file that cannot be written; what was measured stays.
pub fn unkept(error: FolderError) -> Failure {
    let full = error.is_full();
    let failure = Failure::from(error);
    if !full {
        return failure;
    }
    Failure::host(format!(
        "{failure}; make room and make the same call again with --output: what was measured is kept"
    ))
}

/// Whether a build in this tree had no room.
fn is_full(tree: &Path, log: &Path) -> bool {
    let free = rustix::fs::statvfs(tree).map(|it| it.f_bavail.saturating_mul(it.f_frsize));
    let tail = tail(log).unwrap_or_default();
    free.is_ok_and(|bytes| bytes < MIN_FREE_BYTES) || FULL.iter().any(|told| tail.contains(told))
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A command that runs; it ends when this value goes away, with all that it has started.
struct Build {
    child: Child,
}

impl Build {
    fn ended(&mut self) -> Result<Option<ExitStatus>, Failure> {
        let ended = self.child.try_wait();
        ended.map_err(|error| Failure::internal(format!("a build cannot be waited for: {error}")))
    }

    /// Ends it and what it has started, which is in its process group.
    fn kill(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // One that is gone already is no fault.
        let _ = pid.map(|pid| process::kill_process_group(pid, signal));
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // make removes what it has not finished.
        self.kill(Signal::TERM);
        let deadline = Instant::now() + END_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        self.kill(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Becomes the shell of a build if the first argument says so, with no signal blocked, so that the command can
/// be ended in its own way; returns if it does not.
pub fn become_shell(word: &OsString, command: Option<&OsString>) {
    let (true, Some(command)) = (word == SHELL_COMMAND, command) else { return };
    // What fails is said by the shell that is not there.
    let _ = SigSet::empty().thread_set_mask();
    let _ = process::set_parent_process_death_signal(Some(Signal::TERM));
    let error = Command::new("sh").arg("-c").arg(command).exec();
    terminal::err(&format!("cannot run sh: {error}"));
    std::process::exit(OurStatus::Host.code().into());
}
