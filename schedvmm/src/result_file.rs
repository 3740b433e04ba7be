// SPDX-License-Identifier: Apache-2.0
//! A `result.json`, of this version or an older one, wherever it lies: what every verb that takes a
//! result reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::core_figures::{CoreFigures, HostCpus};
use crate::result::SCHEMA;
use crate::status::Failure;
use crate::stored::{self, Numbers};
use crate::summary::Steal;

/// Name of the file in a result folder.
const NAME: &str = "result.json";
/// What else there is that a run has measured, or said.
const OWN_FILES: [&str; 6] =
    [NAME, "gaps.csv", "gaps.hlog", "console.log", "trace.dat", "trace.dat.raw"];
/// The first version: groups and threads counted from 0, threads over all groups.
const FIRST_SCHEMA: &str = "schedvmm-result/1";

/// Of a run of the first version that a gap over the threshold ended.
const GOES_ON: &str = "an older schedvmm wrote this: all figures but the longest gap go on beyond \
                       the gap over the threshold, until the load had been stopped";

/// A result that has been read, in the form of this version.
pub struct ResultFile {
    path: PathBuf,
    /// The folder it lies in, with its other files.
    pub folder: PathBuf,
    value: Value,
    /// Of an older result, which counts threads over all groups: who they are, in order.
    pub older: Option<Vec<Numbers>>,
}

/// A request that makes no sense.
pub fn usage(text: String) -> Failure {
    Failure::request(text)
}

impl ResultFile {
    /// Reads the result in a folder, or this very file.
    ///
    /// # Errors
    /// It is not there, or no result of a schema that is known here.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let path = if path.is_dir() { path.join(NAME) } else { path.to_owned() };
        let text = read_file(&path).map_err(|error| {
            usage(format!(
                "cannot read {}: {error}; name a result folder or its {NAME}",
                path.display()
            ))
        })?;
        let value = serde_json::from_str(&text).map_err(|error| {
            usage(format!("{} is no {NAME} of schedvmm: {error}", path.display()))
        })?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut file = Self { path, folder, value, older: None };
        let schema = file.value["schema"].as_str().unwrap_or_default();
        if schema == FIRST_SCHEMA {
            file.upgrade()?;
        } else if schema != SCHEMA {
            return Err(usage(format!(
                "{} is of schema `{schema}`; this program knows {FIRST_SCHEMA} and {SCHEMA}",
                file.path.display()
            )));
        }
        Ok(file)
    }

    /// What a reader needs of it.
    ///
    /// # Errors
    /// It is not as a result is.
    pub fn of_it<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        T::deserialize(&self.value).map_err(|error| self.none(&error.to_string()))
    }

    /// It is not what it should be.
    pub fn none(&self, why: &str) -> Failure {
        usage(format!("{} is no {NAME} of schedvmm: {why}", self.path.display()))
    }

    /// From the first version to this one: what groups and threads are called.
    fn upgrade(&mut self) -> Result<(), Failure> {
        let threads: Vec<OldThread> = match self.value.get_mut("threads").map(Value::take) {
            None => Vec::new(),
            Some(threads) => {
                let read = Vec::<OldThread>::deserialize(&threads);
                self.value["threads"] = threads;
                read.map_err(|error| self.none(&error.to_string()))?
            }
        };
        let kind = stored::kind(self.value["target"].as_str().unwrap_or_default());
        let first = match kind {
            protocol::index::Kind::Threads => 1,
            protocol::index::Kind::Vcpus => 0,
        };
        let mut members = BTreeMap::new();
        let mut numbers = Vec::new();
        for old in threads {
            let next = members.entry(old.group).or_insert(first);
            numbers.push(Numbers { group: old.group.saturating_add(1), thread: *next });
            *next += 1;
        }
        // A list may have been read as a thread; whoever wants one of the result refuses it.
        let rename = |named: &mut Value, who: Numbers| {
            if let Some(named) = named.as_object_mut() {
                named.insert("group".into(), json!(who.group));
                named.insert("thread".into(), json!(who.thread));
            }
        };
        if let Some(threads) = self.value["threads"].as_array_mut() {
            for (thread, who) in threads.iter_mut().zip(&numbers) {
                rename(thread, *who);
            }
        }
        for key in ["longest_gap", "threshold_hit"] {
            let Some(gap) = self.value.get_mut(key).filter(|gap| gap.is_object()) else { continue };
            let place = gap["thread"].as_u64().and_then(|place| usize::try_from(place).ok());
            let who = place.and_then(|place| numbers.get(place));
            match who {
                Some(who) => rename(gap, *who),
                None => return Err(self.none(&format!("{key} is of a thread that is not there"))),
            }
        }
        if let Some(groups) = self.value.get_mut("groups").and_then(Value::as_array_mut) {
            for group in groups {
                if let Some(number) = group["group"].as_u64() {
                    group["group"] = json!(number.saturating_add(1));
                }
            }
        }
        self.older = Some(numbers);
        self.value["schema"] = json!(SCHEMA);
        self.doubt();
        Ok(())
    }

    /// What the first version did not say of its figures.
    fn doubt(&mut self) {
        let host_cpus = HostCpus::of_result(&self.value);
        self.value["core_figures"] = json!(CoreFigures::of(&host_cpus, &Steal::default()));
        if self.value["threshold_hit"].is_object()
            && let Some(notes) = self.value.get_mut("notes").and_then(Value::as_array_mut)
        {
            notes.push(json!(GOES_ON));
        }
    }
}

/// Refuses to write over what a run has left: its trace, and the other files in its folder.
///
/// # Errors
/// `path` is one of them.
pub fn spare(
    option: &str,
    path: &Path,
    folder: &Path,
    trace: Option<&Path>,
) -> Result<(), Failure> {
    let Ok(target) = path.canonicalize() else { return Ok(()) };
    let own = OWN_FILES.map(|name| folder.join(name));
    let mut own = own.iter().map(PathBuf::as_path).chain(trace);
    if own.any(|own| own.canonicalize().is_ok_and(|own| own == target)) {
        let path = path.display();
        return Err(usage(format!("{option} {path} is a file of the result; name another")));
    }
    Ok(())
}

/// All of a regular file: a device may have no end, and a pipe may never begin.
fn read_file(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    fs::read_to_string(path)
}

/// A thread of a result of the first version; those of all groups are in order.
#[derive(Deserialize)]
struct OldThread {
    group: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ResultFile, String> {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::write(folder.path().join(NAME), text).expect("written");
        ResultFile::read(folder.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_run_has_left_is_not_written_over() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (folder, away) = (dir.path().join("r"), dir.path().join("elsewhere.dat"));
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("gaps.csv"), "").expect("written");
        fs::write(&away, "").expect("written");
        let spare = |path: &str| spare("--to", &dir.path().join(path), &folder, Some(&away));
        for own in ["r/gaps.csv", "r/../r/gaps.csv", "elsewhere.dat"] {
            let error = spare(own).expect_err("refused").to_string();
            assert!(error.contains("is a file of the result") && error.contains(own), "{error}");
        }
        for other in ["r/report.html", "gaps.csv", "r/trace.dat", "r"] {
            assert!(spare(other).is_ok(), "{other}");
        }
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        let error = ResultFile::read(Path::new("/dev/zero")).err().expect("no file").to_string();
        assert!(error.contains("cannot read /dev/zero: it is no regular file"), "{error}");
    }

    #[test]
    fn what_is_no_result_is_refused() {
        let folder = tempfile::tempdir().expect("tempdir");
        let error = ResultFile::read(folder.path()).err().expect("nothing is there").to_string();
        assert!(error.contains(NAME), "{error}");
        for (text, says) in [
            ("{", "no result.json"),
            ("{\"schema\":\"x/9\"}", "schema `x/9`"),
            ("[]", "schema ``"),
            ("7", "schema ``"),
        ] {
            let error = read(text).err().expect("refused");
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_first_version_called_groups_and_threads_otherwise() {
        let thread = |thread, group| json!({ "thread": thread, "group": group, "tid": 7 });
        let old = |target: &str| {
            json!({
                "schema": FIRST_SCHEMA,
                "target": target,
                "threads": [thread(0, 0), thread(1, 0), thread(2, 1), thread(3, 1)],
                "groups": [{ "group": 0 }, { "group": 1 }],
                "longest_gap": { "thread": 3, "group": 1, "length_ns": 5 },
                "threshold_hit": null,
            })
        };
        let upgraded = |target: &str| read(&old(target).to_string()).expect("read");
        let file = upgraded("user");
        assert_eq!(file.value["threads"][2], json!({ "group": 2, "thread": 1, "tid": 7 }));
        assert_eq!(file.value["groups"][1]["group"], 2);
        assert_eq!(file.value["longest_gap"], json!({ "group": 2, "thread": 2, "length_ns": 5 }));
        let numbers = |file: &ResultFile| {
            let all = file.older.as_ref().expect("an older one").iter();
            all.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&file), ["1.1", "1.2", "2.1", "2.2"]);
        assert_eq!(numbers(&upgraded("nested")), ["1.0", "1.1", "2.0", "2.1"]);
    }

    #[test]
    fn a_damaged_first_version_is_refused() {
        let old = |more: &str| format!("{{\"schema\":\"{FIRST_SCHEMA}\",{more}}}");
        for (more, says) in [
            ("\"threads\":7", "no result.json"),
            ("\"threads\":[{}]", "missing field"),
            ("\"threads\":[],\"longest_gap\":{\"thread\":0}", "longest_gap"),
            ("\"threshold_hit\":{\"thread\":-1}", "threshold_hit"),
        ] {
            let error = read(&old(more)).err().expect("refused");
            assert!(error.contains(says), "{error}");
        }
        let list = read(&old("\"threads\":[[0]]")).expect("read");
        let stored = list.of_it::<crate::stored::Stored>().expect_err("refused").to_string();
        assert!(stored.contains("no result.json") && stored.contains("sequence"), "{stored}");
        for (group, number) in [("4294967295", u32::MAX), ("0", 1)] {
            let file = read(&old(&format!("\"threads\":[{{\"group\":{group}}}]"))).expect("read");
            assert_eq!(file.value["threads"][0]["group"], number);
        }
    }
}
