// SPDX-License-Identifier: Apache-2.0
//! The result folder while a run goes on. Files that a run completes are there whole or not at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gaps::record::GapRecord;
use thiserror::Error;

use crate::clock::Clock;
use crate::gaps_csv::{self, GapFile};
use crate::gaps_hlog;
use crate::json;
use crate::model::{RunResult, Thread};

/// The result itself.
pub const RESULT: &str = "result.json";
/// Console output of the kernel under test.
const CONSOLE: &str = "console.log";
/// What else there is that a run has measured, or said.
pub const OWN_FILES: [&str; 6] =
    [RESULT, gaps_csv::NAME, HISTOGRAMS, CONSOLE, "trace.dat", "trace.dat.raw"];
/// Folder for results without a name.
pub const PARENT: &str = "results";
/// Beside them: a symbolic link to the newest.
pub const LATEST: &str = "latest";
/// The configuration of the kernel under test.
const CONFIG: &str = "kernel.config";
/// Distributions.
const HISTOGRAMS: &str = "gaps.hlog";
/// A virtual machine in the guest that prints more than this has told enough.
const MAX_VM_LOG_BYTES: u64 = 4 << 20;
/// Length of the end of a failed VM's console that its result repeats.
const VM_TAIL_BYTES: usize = 2048;
/// So many runs may start within one second.
const MAX_PER_SECOND: u32 = 1000;

/// The folder, or a file in it, cannot be written.
#[derive(Debug, Error)]
pub enum FolderError {
    /// The folder cannot be made.
    #[error("cannot make result folder {}", .path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// There is something in it.
    #[error("result folder {} is not empty; name a new one with --output", .0.display())]
    NotEmpty(PathBuf),
    /// Another process writes to it.
    #[error("{} is in use by another schedvmm; wait until that has ended, or name another folder with --output", .0.display())]
    Busy(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Reason.
        #[source]
        source: io::Error,
    },
}

impl FolderError {
    /// True if it is the disk that has no room left.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Write { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Whether a folder of this name can be one for a result, before anything is done for it; it is
/// not made yet.
///
/// # Errors
/// There is something in it.
pub fn check(named: Option<&Path>) -> Result<(), FolderError> {
    match named.filter(|path| !fs::read_dir(path).map_or(true, |mut all| all.next().is_none())) {
        Some(path) => Err(FolderError::NotEmpty(path.to_owned())),
        None => Ok(()),
    }
}

/// Keeps a folder that many runs go to for this process, as long as what is returned lives.
///
/// # Errors
/// Another process has it, or it cannot be opened.
pub fn lock(folder: &Path) -> Result<File, FolderError> {
    let file = File::open(folder)
        .map_err(|source| FolderError::Create { path: folder.to_owned(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FolderError::Busy(folder.to_owned())),
        // A file system without locks has to do without.
        Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// A result folder.
pub struct Folder {
    path: PathBuf,
    console: File,
    gaps: GapFile,
}

impl Folder {
    /// Makes the folder named, or a new one under `results/`, and shows that it can be
    /// written by starting the console log.
    ///
    /// # Errors
    /// It cannot be written, or something is in it.
    pub fn create(named: Option<&Path>, stamp: &str) -> Result<Self, FolderError> {
        let path = make(named, stamp)?;
        let (log, gaps) = (path.join(CONSOLE), path.join(gaps_csv::NAME));
        let console = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&log)
            .map_err(|source| FolderError::Write { path: log, source })?;
        let gaps =
            GapFile::create(&gaps).map_err(|source| FolderError::Write { path: gaps, source })?;
        Ok(Self { path, console, gaps })
    }

    /// Has gaps.csv take no more than so many bytes.
    pub fn limit_gaps(&mut self, max_bytes: u64) {
        self.gaps.limit(max_bytes);
    }

    /// Whether there are gaps that gaps.csv has no room for.
    pub fn gaps_are_cut(&self) -> bool {
        self.gaps.is_full()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds to the console log.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn log(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.console.write_all(bytes)
    }

    /// Name of the file with the console of a virtual machine in the guest.
    pub fn vm_log_name(vm: u32) -> String {
        format!("vm{vm}.log")
    }

    /// Adds to the console log of a virtual machine in the guest, as far as there is room.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn log_vm(&self, vm: u32, bytes: &[u8]) -> io::Result<()> {
        let path = self.path.join(Self::vm_log_name(vm));
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        if file.metadata()?.len() >= MAX_VM_LOG_BYTES {
            return Ok(());
        }
        file.write_all(bytes)
    }

    /// The end of that log, for whoever wants to know what went wrong.
    pub fn vm_log_tail(&self, vm: u32) -> String {
        let bytes = fs::read(self.path.join(Self::vm_log_name(vm))).unwrap_or_default();
        let from = bytes.len().saturating_sub(VM_TAIL_BYTES);
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    /// Adds the gaps that are not yet in gaps.csv, one a line.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn add_gaps(
        &mut self,
        gaps: &[Vec<GapRecord>],
        clock: Clock<'_>,
    ) -> Result<(), FolderError> {
        let added = self.gaps.append(gaps, clock);
        added.map_err(|source| FolderError::Write { path: self.path.join(gaps_csv::NAME), source })
    }

    /// Writes the distributions of gaps and wake-up delays; `after_hit_ns` are the lengths of gaps
    /// that ended after the one that ended the run, by thread.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn write_histograms(
        &self,
        threads: &[Thread],
        after_hit_ns: &[Vec<u64>],
    ) -> Result<(), FolderError> {
        self.write(HISTOGRAMS, |file| gaps_hlog::write(file, threads, after_hit_ns))
    }

    /// Writes the configuration of the kernel under test, as `.config` has it. Returns the
    /// file's name.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn write_config(
        &self,
        config: impl IntoIterator<Item = (String, String)>,
    ) -> Result<String, FolderError> {
        let lines = config.into_iter().map(|(name, value)| format!("{name}={value}\n"));
        let mut lines: Vec<_> = lines.collect();
        lines.sort_unstable();
        self.write(CONFIG, |file| file.write_all(lines.concat().as_bytes()))?;
        Ok(CONFIG.to_owned())
    }

    /// Copies the configuration of the running kernel from where a distribution, or the kernel
    /// itself, keeps it. Returns the file's name, and where it was.
    pub fn copy_config(&self, release: &str) -> Option<(String, String)> {
        let packed = format!("{CONFIG}.gz");
        let places = [
            (format!("/boot/config-{release}"), CONFIG),
            ("/proc/config.gz".to_owned(), packed.as_str()),
        ];
        places.into_iter().find_map(|(from, name)| {
            let bytes = fs::read(&from).ok()?;
            self.write(name, |file| file.write_all(&bytes)).ok()?;
            Some((name.to_owned(), from))
        })
    }

    /// Writes `result.json`.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn write_result(&self, result: &RunResult) -> Result<(), FolderError> {
        self.write(RESULT, |file| json::write_line(file, result))
    }

    /// Writes a file that is there whole or not at all. Where there is no room for an older one
    /// beside it, that one goes first.
    fn write(
        &self,
        name: &str,
        fill: impl Fn(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), FolderError> {
        match self.write_beside(name, &fill) {
            Err(error) if error.is_full() && fs::remove_file(self.path.join(name)).is_ok() => {
                self.write_beside(name, &fill)
            }
            written => written,
        }
    }

    fn write_beside(
        &self,
        name: &str,
        fill: impl Fn(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), FolderError> {
        write_whole(&self.path.join(name), fill)
    }
}

/// Writes a file that is there whole or not at all.
///
/// # Errors
/// The disk is full, for one: then the older one stays.
pub fn write_whole(
    path: &Path,
    fill: impl Fn(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FolderError> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let written = create_fresh(part.as_ref()).and_then(|file| {
        let mut file = BufWriter::new(file);
        fill(&mut file)?;
        file.flush()?;
        fs::rename(&part, path)
    });
    written.map_err(|source| {
        // Nothing of use is in it; if it cannot go either, it stays.
        let _ = fs::remove_file(&part);
        FolderError::Write { path: path.to_owned(), source }
    })
}

/// Makes a file of a name that is ours: what an earlier run has left there goes, and what somebody
/// else has, too. Nothing is written through a link (`O_EXCL`), wherever it leads.
///
/// # Errors
/// It cannot be made, or somebody is faster.
pub fn create_fresh(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::create_new(path),
    }
}

/// Makes the folder named, which is new or empty, or a new one under `results/`, which is found again
/// as `results/latest`.
///
/// # Errors
/// It cannot be made, or something is in it.
pub fn make(named: Option<&Path>, stamp: &str) -> Result<PathBuf, FolderError> {
    match named {
        Some(path) => named_folder(path),
        None => {
            let path = new_folder(Path::new(PARENT), stamp)?;
            point_to_latest(&path);
            Ok(path)
        }
    }
}

/// Has `latest` beside a folder lead to it. A comfort: a file system without symbolic links has none,
/// and what somebody else has put there stays.
fn point_to_latest(folder: &Path) {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else { return };
    let (link, part) =
        (parent.join(LATEST), parent.join(format!(".{LATEST}-{}", std::process::id())));
    let is_ours = link.symlink_metadata().map_or(true, |there| there.is_symlink());
    if is_ours && symlink(name, &part).is_ok() && fs::rename(&part, &link).is_err() {
        let _ = fs::remove_file(&part);
    }
}

fn named_folder(path: &Path) -> Result<PathBuf, FolderError> {
    fs::create_dir_all(path).map_err(|source| cannot_create(path, source))?;
    if fs::read_dir(path).map_err(|source| cannot_create(path, source))?.next().is_some() {
        return Err(FolderError::NotEmpty(path.to_owned()));
    }
    Ok(path.to_owned())
}

fn new_folder(parent: &Path, stamp: &str) -> Result<PathBuf, FolderError> {
    fs::create_dir_all(parent).map_err(|source| cannot_create(parent, source))?;
    let mut path = parent.join(stamp);
    for n in 2..MAX_PER_SECOND {
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                path = parent.join(format!("{stamp}-{n}"));
            }
            result => return result.map_err(|source| cannot_create(&path, source)).map(|()| path),
        }
    }
    Err(cannot_create(&path, io::ErrorKind::AlreadyExists.into()))
}

fn cannot_create(path: &Path, source: io::Error) -> FolderError {
    FolderError::Create { path: path.to_owned(), source }
}

/// Now, in the calendar: `2026-11-22T20:15:00Z`. Names of folders are made of it.
pub fn started_utc() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_sorted() {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = Folder::create(Some(&dir.path().join("r")), "x");
        let folder = folder.map_err(|error| error.to_string()).expect("made");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let config = [pair("CONFIG_HZ", "250"), pair("CONFIG_64BIT", "y")];
        let name = folder.write_config(config).expect("written");
        let text = fs::read_to_string(folder.path().join(name)).expect("read");
        assert_eq!(text, "CONFIG_64BIT=y\nCONFIG_HZ=250\n");
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (mine, name) = (dir.path().join("mine"), dir.path().join("result.json"));
        fs::write(&mine, "precious").expect("written");
        for link in [name.clone(), dir.path().join("result.json.part")] {
            symlink(&mine, &link).expect("a link");
            write_whole(&name, |file| file.write_all(b"{}")).expect("written");
            assert_eq!(fs::read(&mine).expect("read"), b"precious", "{}", link.display());
            assert_eq!(fs::read(&name).expect("read"), b"{}");
            assert!(!name.is_symlink());
        }
        // A folder of the name is not taken away.
        fs::create_dir(dir.path().join("other.part")).expect("made");
        assert!(write_whole(&dir.path().join("other"), |_| Ok(())).is_err());
    }

    #[test]
    fn the_newest_is_found_by_a_link() {
        let dir = tempfile::tempdir().expect("tempdir");
        let link = dir.path().join(LATEST);
        for stamp in ["first", "second"] {
            let folder = new_folder(dir.path(), stamp).expect("made");
            point_to_latest(&folder);
            assert_eq!(fs::read_link(&link).expect("a link"), Path::new(stamp));
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 3);
        // Somebody's own.
        fs::remove_file(&link).expect("removed");
        fs::write(&link, "mine").expect("written");
        point_to_latest(&dir.path().join("first"));
        assert_eq!(fs::read(&link).expect("read"), b"mine");
    }

    #[test]
    fn a_folder_is_locked_for_one_at_a_time() {
        let dir = tempfile::tempdir().expect("tempdir");
        let first = lock(dir.path()).expect("free");
        let error = lock(dir.path()).expect_err("in use").to_string();
        assert!(error.contains("is in use by another schedvmm; wait"), "{error}");
        drop(first);
        assert!(lock(dir.path()).is_ok());
    }

    #[test]
    fn folders_are_new_or_empty() {
        let dir = tempfile::tempdir().expect("tempdir");
        let named = dir.path().join("a/b");
        let folder = Folder::create(Some(&named), "x").map_err(|error| error.to_string());
        assert_eq!(folder.expect("made").path(), named);
        assert!(matches!(Folder::create(Some(&named), "x"), Err(FolderError::NotEmpty(_))));
        assert!(matches!(check(Some(&named)), Err(FolderError::NotEmpty(_))));
        let new = dir.path().join("new");
        assert!(check(Some(&new)).is_ok() && check(None).is_ok() && !new.exists());
        let first = new_folder(dir.path(), "now").expect("made");
        let second = new_folder(dir.path(), "now").expect("made");
        assert_ne!(first, second);
        let file = dir.path().join("file");
        fs::write(&file, "x").expect("write");
        assert!(matches!(Folder::create(Some(&file), "x"), Err(FolderError::Create { .. })));
    }
}
