// SPDX-License-Identifier: Apache-2.0
//! Core scheduling: one cookie for each group, by whatever interface the kernel has.
//!
//! Four came one after the other: `cpu.scheduled` (the co-scheduling patches of 2018),
//! `cpu.tag` (core scheduling v1 to v8), `cpu.core_tag` (v9, v10), and the `prctl` of 5.14,
//! the only one that went upstream. Numbers of that prctl had other meanings in the patches
//! before; only its reading command is ever used to probe.

use std::io;

use protocol::job::CoschedRequest;
use rustix::process::Pid;
use rustix::thread::{self, CoreSchedulingScope};
use thiserror::Error;

use crate::kernel::cgroup::{Cgroups, Version};
use crate::kernel::files;
use protocol::message::CoschedInterface;

/// How the groups get their cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Not at all.
    None,
    /// Each process by itself, with `prctl`.
    Prctl,
    /// By a file of the cgroup.
    File(TagFile),
}

/// A cgroup file that tags a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagFile {
    /// `cpu.core_tag`.
    CoreTag,
    /// `cpu.tag`.
    Tag,
    /// `cpu.scheduled`.
    Scheduled,
}

impl Mechanism {
    /// As in the result.
    pub fn interface(self) -> CoschedInterface {
        match self {
            Self::None => CoschedInterface::None,
            Self::Prctl => CoschedInterface::Prctl,
            Self::File(TagFile::CoreTag) => CoschedInterface::CoreTag,
            Self::File(TagFile::Tag) => CoschedInterface::Tag,
            Self::File(TagFile::Scheduled) => CoschedInterface::Scheduled,
        }
    }
}

impl TagFile {
    const NEWEST_FIRST: [Self; 3] = [Self::CoreTag, Self::Tag, Self::Scheduled];

    fn name(self) -> &'static str {
        match self {
            Self::CoreTag => "cpu.core_tag",
            Self::Tag => "cpu.tag",
            Self::Scheduled => "cpu.scheduled",
        }
    }

    fn provider(self) -> &'static str {
        match self {
            Self::CoreTag => {
                "the core-scheduling patches v9 or v10 of 2020/21, booted with coresched=on"
            }
            Self::Tag => "the core-scheduling patches v1 to v8 of 2019/20",
            Self::Scheduled => "the co-scheduling patches of 2018, booted with cosched_max_level=1",
        }
    }
}

/// Why the interface that was asked for cannot be had.
#[derive(Debug, Error)]
pub enum CoschedError {
    /// No prctl.
    #[error("cookies by prctl are not available: {}", explain_prctl(source))]
    Prctl {
        /// What the kernel said.
        source: io::Error,
    },
    /// No such file in any hierarchy.
    #[error(
        "this kernel has no cgroup file {}; it needs {}{}",
        file.name(), file.provider(), unseen(not_looked_in)
    )]
    NoFile {
        /// The file.
        file: TagFile,
        /// Why it could not be looked for in a hierarchy.
        not_looked_in: Vec<String>,
    },
    /// The file is there and takes no 1.
    #[error("{0}")]
    Refused(String),
}

fn unseen(not_looked_in: &[String]) -> String {
    let reasons = not_looked_in.join("; ");
    if reasons.is_empty() { reasons } else { format!(" (not looked for everywhere: {reasons})") }
}

/// Cookies and cgroups as they were arranged.
#[derive(Debug)]
pub struct Arranged {
    /// How the groups get their cookies.
    pub mechanism: Mechanism,
    /// Why there is none, where any would have done.
    pub note: Option<String>,
    /// The groups' cgroups.
    pub cgroups: Cgroups,
}

/// Chooses a mechanism and makes the cgroups it needs.
///
/// `make` makes the cgroups of one version. Without tag files v2 is preferred, since it alone
/// reports forced idle time. Tag files are looked for in v1 first, where all of the old
/// patches have them, and in v2 after that.
pub fn arrange(
    request: CoschedRequest,
    prctl: io::Result<()>,
    make: &mut dyn FnMut(Version) -> io::Result<Cgroups>,
) -> Result<Arranged, CoschedError> {
    let files: &[TagFile] = match (request, prctl) {
        (CoschedRequest::None, _) => return Ok(without_files(Mechanism::None, None, make)),
        (CoschedRequest::Prctl | CoschedRequest::Auto, Ok(())) => {
            return Ok(without_files(Mechanism::Prctl, None, make));
        }
        (CoschedRequest::Prctl, Err(source)) => return Err(CoschedError::Prctl { source }),
        // A kernel that knows the prctl, and sees no SMT, has none of the files.
        (CoschedRequest::Auto, Err(source)) if source.raw_os_error() == Some(libc::ENODEV) => {
            return Ok(without_files(Mechanism::None, Some(explain_prctl(&source)), make));
        }
        (CoschedRequest::Auto, Err(source)) => {
            return Ok(tag_by(&TagFile::NEWEST_FIRST, make).unwrap_or_else(|untagged| {
                let mut note = explain_prctl(&source);
                for refusal in untagged.refusals.into_iter().chain(untagged.not_looked_in) {
                    note.push_str("; ");
                    note.push_str(&refusal);
                }
                without_files(Mechanism::None, Some(note), make)
            }));
        }
        (CoschedRequest::CoreTag, _) => &[TagFile::CoreTag],
        (CoschedRequest::Tag, _) => &[TagFile::Tag],
        (CoschedRequest::Scheduled, _) => &[TagFile::Scheduled],
    };
    tag_by(files, make).map_err(|Untagged { mut refusals, not_looked_in }| {
        match (refusals.pop(), files) {
            (None, &[file, ..]) => CoschedError::NoFile { file, not_looked_in },
            (refusal, _) => CoschedError::Refused(refusal.unwrap_or_default()),
        }
    })
}

/// Why nothing could be tagged.
struct Untagged {
    /// Of files that were there.
    refusals: Vec<String>,
    /// Of hierarchies that could not be made.
    not_looked_in: Vec<String>,
}

/// Tags all groups by the first of these files that any hierarchy has.
fn tag_by(
    files: &[TagFile],
    make: &mut dyn FnMut(Version) -> io::Result<Cgroups>,
) -> Result<Arranged, Untagged> {
    let (mut refusals, mut not_looked_in) = (Vec::new(), Vec::new());
    for version in [Version::V1, Version::V2] {
        let cgroups = match make(version) {
            Ok(cgroups) => cgroups,
            Err(error) => {
                not_looked_in.push(error.to_string());
                continue;
            }
        };
        for &file in files {
            match tag_all(&cgroups, file) {
                Ok(true) => {
                    let mechanism = Mechanism::File(file);
                    return Ok(Arranged { mechanism, note: None, cgroups });
                }
                Ok(false) => {}
                Err(refusal) => refusals.push(refusal),
            }
        }
        cgroups.remove();
    }
    Err(Untagged { refusals, not_looked_in })
}

/// `false` where the kernel has no such file.
fn tag_all(cgroups: &Cgroups, file: TagFile) -> Result<bool, String> {
    let directories = cgroups.cpu_directories();
    if directories.is_empty()
        || !directories.iter().all(|directory| directory.join(file.name()).exists())
    {
        return Ok(false);
    }
    if let Some(number) = cgroups.tagged_outside() {
        return Err(format!(
            "{} gives cookies to cgroups, and group {} has none of its own (cgroup = \"none\")",
            file.name(),
            number + 1
        ));
    }
    for directory in cgroups.tagged_directories() {
        let path = directory.join(file.name());
        files::write_file(&path, "1")
            .map_err(|error| format!("{} takes no 1: {error}", path.display()))?;
    }
    Ok(true)
}

fn without_files(
    mechanism: Mechanism,
    note: Option<String>,
    make: &mut dyn FnMut(Version) -> io::Result<Cgroups>,
) -> Arranged {
    let cgroups = make(Version::V2)
        .or_else(|v2| make(Version::V1).map_err(|v1| format!("no cgroups: v2: {v2}; v1: {v1}")));
    Arranged { mechanism, note, cgroups: cgroups.unwrap_or_else(Cgroups::none_because) }
}

fn explain_prctl(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EINVAL) => {
            "this kernel has no PR_SCHED_CORE; it needs Linux 5.14 or later with \
             CONFIG_SCHED_CORE=y"
        }
        Some(libc::ENODEV) => {
            "this kernel sees no SMT, without which core scheduling is off; it needs \
             CONFIG_SCHED_SMT=y and a machine with 2 threads per core"
        }
        _ => return format!("PR_SCHED_CORE fails: {error}"),
    }
    .to_owned()
}

/// Whether this kernel, on this machine, has cookies by `prctl`.
pub fn probe_prctl() -> io::Result<()> {
    cookie_of_this_thread().map(|_| ())
}

/// Gives the calling process, all its threads, a cookie of its own.
pub fn create_cookie() -> io::Result<()> {
    let all_threads = CoreSchedulingScope::ThreadGroup;
    Ok(thread::create_core_scheduling_cookie(rustix::process::getpid(), all_threads)?)
}

/// The cookie of the calling thread: 0 for none, else a number that means nothing in itself.
pub fn cookie_of_this_thread() -> io::Result<u64> {
    Ok(thread::core_scheduling_cookie(thread::gettid(), CoreSchedulingScope::Thread)?)
}

/// The cookie of any thread, which takes the right to trace it.
pub fn cookie_of(tid: u32) -> io::Result<u64> {
    let tid = Pid::from_raw(tid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(thread::core_scheduling_cookie(tid, CoreSchedulingScope::Thread)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::groups;
    use std::fs;

    fn no_prctl() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// Arranges on a kernel whose v1 cpu hierarchy has these files in each of two groups.
    fn arrange_with(
        files: &[&str],
        request: CoschedRequest,
        prctl: io::Result<()>,
    ) -> Result<(Arranged, Vec<String>), CoschedError> {
        let root = tempfile::tempdir().unwrap();
        let mut make = |version| {
            let path = root.path().join(Version::name(version));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.controllers"), "cpu cpuset").unwrap();
            for group in ["vm1", "vm2"] {
                fs::create_dir_all(path.join(group)).unwrap();
                for file in files.iter().filter(|_| version == Version::V1) {
                    fs::write(path.join(group).join(file), "0").unwrap();
                }
            }
            match version {
                Version::V1 => Cgroups::create_v1(&path, None, &groups(2), &"0".parse().unwrap()),
                _ => Cgroups::create_v2(&path, &groups(2), &"0".parse().unwrap()),
            }
        };
        let arranged = arrange(request, prctl, &mut make)?;
        let tags = arranged.cgroups.cpu_directories().iter().flat_map(|directory| {
            files.iter().filter_map(|file| fs::read_to_string(directory.join(file)).ok())
        });
        let tags = tags.collect();
        Ok((arranged, tags))
    }

    #[test]
    fn auto_takes_the_newest_there_is() {
        let auto = CoschedRequest::Auto;
        let (arranged, tags) = arrange_with(&["cpu.tag"], auto, Ok(())).unwrap();
        assert_eq!(arranged.mechanism.interface().name(), "prctl");
        assert_eq!((arranged.cgroups.version(), tags.len()), (Version::V2, 0));
        let (arranged, tags) =
            arrange_with(&["cpu.tag", "cpu.core_tag"], auto, no_prctl()).unwrap();
        assert_eq!(arranged.mechanism.interface().name(), "core_tag");
        assert_eq!(tags, ["0", "1", "0", "1"]);
        let (arranged, tags) = arrange_with(&["cpu.scheduled"], auto, no_prctl()).unwrap();
        assert_eq!(arranged.mechanism.interface().name(), "scheduled");
        assert_eq!(tags, ["1", "1"]);
    }

    #[test]
    fn what_is_outside_of_its_cgroup_has_no_tag() {
        let root = tempfile::tempdir().unwrap();
        let mut groups = groups(2);
        groups[1].own_cgroup = false;
        for group in ["vm1", "vm2"] {
            fs::create_dir_all(root.path().join(group)).unwrap();
            fs::write(root.path().join(group).join("cpu.tag"), "0").unwrap();
        }
        let made = Cgroups::create_v1(root.path(), None, &groups, &"0".parse().unwrap()).unwrap();
        let error = tag_all(&made, TagFile::Tag).unwrap_err();
        assert!(error.contains("cpu.tag gives cookies to cgroups, and group 2"), "{error}");
        let procs = made.procs();
        assert!(procs[0][0].ends_with("vm1/cgroup.procs") && procs[1].is_empty(), "{procs:?}");
        groups[1].cookie = false;
        let made = Cgroups::create_v1(root.path(), None, &groups, &"0".parse().unwrap()).unwrap();
        assert_eq!(tag_all(&made, TagFile::Tag), Ok(true));
        assert_eq!(fs::read_to_string(root.path().join("vm2/cpu.tag")).unwrap(), "0");
    }

    #[test]
    fn auto_without_any_runs_on_and_says_why() {
        let (arranged, _) = arrange_with(&[], CoschedRequest::Auto, no_prctl()).unwrap();
        assert_eq!(arranged.mechanism, Mechanism::None);
        assert_eq!(arranged.cgroups.version(), Version::V2);
        assert!(arranged.note.unwrap().contains("CONFIG_SCHED_CORE"));
        let no_smt = Err(io::Error::from_raw_os_error(libc::ENODEV));
        // Nothing is made to look for files that such a kernel cannot have.
        let mut versions = Vec::new();
        let mut make = |version| {
            versions.push(version);
            Ok(Cgroups::none())
        };
        let arranged = arrange(CoschedRequest::Auto, no_smt, &mut make).unwrap();
        assert!(arranged.note.unwrap().contains("SMT"));
        assert_eq!(versions, [Version::V2]);
    }

    #[test]
    fn an_explicit_choice_is_kept_or_refused() {
        let (arranged, tags) = arrange_with(&["cpu.tag"], CoschedRequest::Tag, Ok(())).unwrap();
        assert_eq!(
            (arranged.mechanism.interface().name(), tags),
            ("tag", vec!["1".into(), "1".into()])
        );
        let error = arrange_with(&[], CoschedRequest::CoreTag, Ok(())).unwrap_err().to_string();
        assert!(error.contains("cpu.core_tag") && !error.contains("everywhere"), "{error}");
        let mut none = |version| Err(io::Error::other(format!("no {}", Version::name(version))));
        let error = arrange(CoschedRequest::Tag, no_prctl(), &mut none).unwrap_err().to_string();
        assert!(error.ends_with("(not looked for everywhere: no v1; no v2)"), "{error}");
        let arranged = arrange(CoschedRequest::Auto, no_prctl(), &mut none).unwrap();
        assert!(arranged.note.unwrap().ends_with("; no v1; no v2"));
        assert_eq!(arranged.cgroups.notes(), ["no cgroups: v2: no v2; v1: no v1"]);
        let error = arrange_with(&[], CoschedRequest::Prctl, no_prctl()).unwrap_err();
        assert!(error.to_string().contains("CONFIG_SCHED_CORE"), "{error}");
        let (arranged, tags) = arrange_with(&["cpu.tag"], CoschedRequest::None, Ok(())).unwrap();
        assert_eq!((arranged.mechanism.interface().name(), tags.len()), ("none", 0));
    }

    #[test]
    fn a_file_that_refuses_is_quoted() {
        // A directory in the file's place cannot be written.
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("vm1/cpu.tag")).unwrap();
        let mut make = |version| match version {
            Version::V1 => Cgroups::create_v1(root.path(), None, &groups(1), &"0".parse().unwrap()),
            _ => Err(io::Error::other("no v2")),
        };
        let error = arrange(CoschedRequest::Tag, no_prctl(), &mut make).unwrap_err();
        assert!(error.to_string().contains("vm1/cpu.tag takes no 1"), "{error}");
        let arranged = arrange(CoschedRequest::Auto, no_prctl(), &mut make).unwrap();
        assert!(arranged.note.unwrap().contains("takes no 1"));
    }

    #[test]
    fn this_kernel_answers_the_probe_one_way_or_the_other() {
        if let Err(error) = probe_prctl() {
            assert!(matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)), "{error}");
        }
    }
}
