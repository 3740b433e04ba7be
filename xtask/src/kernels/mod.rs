// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask kernels`: the main job on one kernel after the other, as a distribution ships them
//! and as developers build them, and what became of it in a table.

mod entry;
mod job;
mod row;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use self::entry::{Entry, Source};
use self::job::Bench;
use self::row::Row;
use testhost::artifacts;
use testhost::kernel::Stock;
use testhost::venue::Venue;

/// Which kernels, and how what was found is shown.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Every kernel that the archives offer whole, not some.
    pub all: bool,
    /// The kernels in these folders instead.
    pub folders: Vec<PathBuf>,
    /// Only those whose names have one of these texts in them, if there are any.
    pub only: Vec<String>,
    /// Print one JSON array instead of a table.
    pub json: bool,
    /// Longest time for the main job on one of them.
    pub timeout: Duration,
}

impl Matrix {
    /// Runs them all, one after the other; whether all ran. One that does not run stops no other.
    ///
    /// # Errors
    /// The archives cannot be asked, or no kernel has such a name.
    pub fn run(&self) -> Result<bool> {
        let entries = self.chosen(self.entries()?)?;
        let schedvmm = artifacts::schedvmm()?;
        let venue = Venue::detect(&schedvmm)?;
        eprintln!("{venue}");
        let bench = Bench { venue, schedvmm, timeout: self.timeout };
        if !self.json {
            println!("{}", Row::HEADER);
        }
        let mut rows = Vec::new();
        for (number, entry) in entries.iter().enumerate() {
            let row = self.row(&bench, entry);
            if !self.json {
                println!("{row}");
            }
            let is_last = !entries[number + 1..].iter().any(|other| other.source == entry.source);
            if is_last && let Err(error) = self.clean_up(entry) {
                eprintln!("{}: {error:#}", entry.name());
            }
            rows.push(row);
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        let ran = rows.iter().filter(|row| row.ran).count();
        eprintln!("{ran} of {} ran", rows.len());
        Ok(ran == rows.len())
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        if self.folders.is_empty() {
            return entry::all(self.all);
        }
        Ok(self
            .folders
            .iter()
            .map(|path| Entry { source: Source::Folder(path.clone()), nested: false })
            .collect())
    }

    /// Those that are meant.
    fn chosen(&self, mut entries: Vec<Entry>) -> Result<Vec<Entry>> {
        if self.only.is_empty() {
            return Ok(entries);
        }
        let names: Vec<_> = entries.iter().map(Entry::name).collect();
        if let Some(only) =
            self.only.iter().find(|only| names.iter().all(|name| !name.contains(only.as_str())))
        {
            bail!("no kernel is called \"{only}\", only: {}", names.join("; "));
        }
        entries.retain(|entry| self.only.iter().any(|only| entry.name().contains(only.as_str())));
        Ok(entries)
    }

    /// What becomes of one of them, whatever that is.
    fn row(&self, bench: &Bench, entry: &Entry) -> Row {
        eprintln!("== {}", entry.name());
        let row = entry.folder().and_then(|folder| bench.row(entry, &folder));
        row.unwrap_or_else(|error| Row::failed(entry, format!("{error:#}")))
    }

    /// Takes out of the cache what only this run has brought into it.
    fn clean_up(&self, entry: &Entry) -> Result<()> {
        match &entry.source {
            Source::Stock { offer, was_cached: false } if self.all && offer.is_cached() => {
                offer.fetch().and_then(|stock: Stock| stock.remove())
            }
            Source::Stock { .. } | Source::Built { .. } | Source::Folder(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testhost::kernel::{Variant, Wanted};

    #[test]
    fn a_text_chooses_and_one_that_fits_none_names_all() {
        let entry = |variant, nested| Entry {
            source: Source::Built { wanted: Wanted::Newest, variant },
            nested,
        };
        let all = vec![entry(Variant::Defconfig, false), entry(Variant::Fragment, true)];
        let matrix = |only: &[&str]| Matrix {
            all: false,
            folders: Vec::new(),
            only: only.iter().map(ToString::to_string).collect(),
            json: false,
            timeout: Duration::from_secs(1),
        };
        let chosen = |only: &[&str]| matrix(only).chosen(all.clone());
        assert_eq!(chosen(&[]).unwrap(), all);
        assert_eq!(chosen(&["nested"]).unwrap(), all[1..]);
        assert_eq!(chosen(&["nested", "newest defconfig"]).unwrap(), all);
        let error = chosen(&["nested", "6.1"]).unwrap_err().to_string();
        assert!(error.contains("newest defconfig; newest fragment, nested"), "{error}");
    }
}
