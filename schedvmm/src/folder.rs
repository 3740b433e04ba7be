// SPDX-License-Identifier: Apache-2.0
//! The result folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use gaps::record::GapRecord;
use thiserror::Error;

use crate::hlog;
use crate::result::{Clock, RunResult, Thread};

/// Folder for results without a name.
const PARENT: &str = "results";
/// So many runs may start within one second.
const MOST_PER_SECOND: u32 = 1000;

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
    /// Whether it is the disk that has no room left.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Write { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// A result folder.
pub struct Folder {
    path: PathBuf,
    console: File,
}

impl Folder {
    /// Makes the folder named, or a new one under `results/`, and shows that it can be
    /// written by starting the console log.
    ///
    /// # Errors
    /// It cannot be written, or something is in it.
    pub fn create(named: Option<&Path>, stamp: &str) -> Result<Self, FolderError> {
        let path = match named {
            Some(path) => named_folder(path)?,
            None => new_folder(Path::new(PARENT), stamp)?,
        };
        let log = path.join("console.log");
        let console = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&log)
            .map_err(|source| FolderError::Write { path: log, source })?;
        Ok(Self { path, console })
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

    /// Writes every recorded gap, one a line.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn write_gaps(&self, gaps: &[Vec<GapRecord>], clock: Clock<'_>) -> Result<(), FolderError> {
        self.write("gaps.csv", |file| {
            writeln!(
                file,
                "thread,group,begin_ns,length_ns,tsc_begin,tsc_end,cpu_begin,cpu_end,class"
            )?;
            for (thread, records) in gaps.iter().enumerate() {
                for record in records {
                    let gap = clock.locate(thread, None, *record);
                    writeln!(
                        file,
                        "{},{},{},{},{},{},{},{},{}",
                        gap.thread,
                        gap.group,
                        gap.begin_ns,
                        gap.length_ns,
                        gap.tsc_begin,
                        gap.tsc_end,
                        gap.cpu_begin,
                        gap.cpu_end,
                        gap.class.name()
                    )?;
                }
            }
            Ok(())
        })
    }

    /// Writes the distributions of gaps and wake-up delays.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn write_histograms(&self, threads: &[Thread]) -> Result<(), FolderError> {
        self.write("gaps.hlog", |file| hlog::write(file, threads))
    }

    /// Writes `result.json`.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn write_result(&self, result: &RunResult) -> Result<(), FolderError> {
        self.write("result.json", |file| {
            serde_json::to_writer_pretty(&mut *file, result)?;
            writeln!(file)
        })
    }

    /// Writes a file that is there whole or not at all.
    fn write(
        &self,
        name: &str,
        fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), FolderError> {
        let (path, part) = (self.path.join(name), self.path.join(format!("{name}.part")));
        let written = File::create(&part).and_then(|file| {
            let mut file = BufWriter::new(file);
            fill(&mut file)?;
            file.flush()?;
            fs::rename(&part, &path)
        });
        written.map_err(|source| {
            // Nothing of use is in it; if it cannot go either, it stays.
            let _ = fs::remove_file(&part);
            FolderError::Write { path, source }
        })
    }
}

fn named_folder(path: &Path) -> Result<PathBuf, FolderError> {
    let fault = |source| FolderError::Create { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(fault)?;
    if fs::read_dir(path).map_err(fault)?.next().is_some() {
        return Err(FolderError::NotEmpty(path.to_owned()));
    }
    Ok(path.to_owned())
}

fn new_folder(parent: &Path, stamp: &str) -> Result<PathBuf, FolderError> {
    let fault = |path: &Path, source| FolderError::Create { path: path.to_owned(), source };
    fs::create_dir_all(parent).map_err(|source| fault(parent, source))?;
    let mut path = parent.join(stamp);
    for n in 2..MOST_PER_SECOND {
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                path = parent.join(format!("{stamp}-{n}"));
            }
            result => return result.map_err(|source| fault(&path, source)).map(|()| path),
        }
    }
    Err(fault(&path, io::ErrorKind::AlreadyExists.into()))
}

/// A moment as `2026-11-22T20:15:00Z`, from seconds since the epoch.
pub fn utc(seconds: u64) -> String {
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) =
        (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Gregorian date of a day counted from 1970-01-01. Years are counted from March, so that
/// the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_400_YEARS: u64 = 146_097;
    const DAYS_FROM_0000_03_01: u64 = 719_468;
    let days = days + DAYS_FROM_0000_03_01;
    let era = days / DAYS_PER_400_YEARS;
    let day_of_era = days % DAYS_PER_400_YEARS;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use gaps::evidence::Class;

    use super::*;
    use crate::testing::load;

    #[test]
    fn dates_are_right() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_378_500), "2026-11-22T20:15:00Z");
    }

    #[test]
    fn folders_are_new_or_empty() {
        let dir = tempfile::tempdir().expect("tempdir");
        let named = dir.path().join("a/b");
        let folder = Folder::create(Some(&named), "x").map_err(|error| error.to_string());
        assert_eq!(folder.expect("made").path(), named);
        assert!(matches!(Folder::create(Some(&named), "x"), Err(FolderError::NotEmpty(_))));
        let first = new_folder(dir.path(), "now").expect("made");
        let second = new_folder(dir.path(), "now").expect("made");
        assert_ne!(first, second);
        let file = dir.path().join("file");
        fs::write(&file, "x").expect("write");
        assert!(matches!(Folder::create(Some(&file), "x"), Err(FolderError::Create { .. })));
    }

    #[test]
    fn gaps_are_written_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = Folder::create(Some(&dir.path().join("r")), "x").expect("made");
        let record =
            GapRecord { tsc_begin: 10, tsc_end: 30, cpu_begin: 2, cpu_end: 3, class: Class::Host };
        folder
            .write_gaps(&[vec![], vec![record]], Clock::new(0, 0, &load(2, 1, 1)))
            .expect("written");
        let text = fs::read_to_string(folder.path().join("gaps.csv")).expect("read");
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("\n1,1,0,0,10,30,2,3,host\n"), "{text}");
        assert!(!folder.path().join("gaps.csv.part").exists());
    }
}
