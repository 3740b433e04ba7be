// SPDX-License-Identifier: Apache-2.0
//! What the load's groups are like: from plain options, from a preset, or from a file. Presets
//! are files too, so that everybody can begin with one of them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use protocol::group::{Class, GroupSpec, Policy, Quota, SleepSpec, fault};
use serde::Deserialize;
use workload::supervisor::MAX_THREADS;

use crate::cli::LoadArgs;
use crate::plain_file;
use crate::presets::PRESETS;
use crate::status::Failure;
use crate::units;

/// Larger files are no load.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// A burst that no run outlasts.
const ALWAYS: Duration = Duration::from_secs(24 * 3600);
/// No pause between bursts.
const NO_PAUSE: SleepSpec = SleepSpec::Fixed(Duration::ZERO);

/// The groups, and what they are called as a whole.
#[derive(Debug, PartialEq)]
pub struct Shape {
    /// A preset's name or a file's path.
    pub name: Option<String>,
    /// The groups in order.
    pub groups: Vec<GroupSpec>,
}

impl Shape {
    /// As the options say, on these CPUs.
    ///
    /// # Errors
    /// There are no or too many threads, or the file makes no sense.
    pub fn choose(args: &LoadArgs, cpus: &[u32]) -> Result<Self, Failure> {
        let shape = match (&args.preset, &args.load) {
            (Some(name), _) => {
                // clap lets only names of presets through.
                let text = PRESETS.iter().find(|(known, _)| known == name).map_or("", |(_, t)| t);
                parse(text, cpus).map(|groups| Self { name: Some(name.clone()), groups })
            }
            (None, Some(path)) => read(path)
                .and_then(|text| parse(&text, cpus))
                .map(|groups| Self { name: Some(path.display().to_string()), groups }),
            (None, None) => plain(args),
        };
        shape.map_err(|text| {
            Failure::request(match (&args.preset, &args.load) {
                (Some(name), _) => format!("--preset {name}: {text}"),
                (None, Some(path)) => format!("--load {}: {text}", path.display()),
                (None, None) => text,
            })
        })
    }
}

/// One line for each preset.
pub fn list_presets() -> String {
    let mut list = String::new();
    for (name, text) in PRESETS {
        let about =
            toml::from_str::<File>(text).map_or_else(|error| error.to_string(), |f| f.about);
        // Writing to a String does not fail.
        let _ = writeln!(list, "{name:<14}{about}");
    }
    list
}

fn plain(args: &LoadArgs) -> Result<Shape, String> {
    let (groups, each) = (args.groups as usize, args.threads as usize);
    let threads = groups.checked_mul(each);
    if !threads.is_some_and(|threads| (1..=MAX_THREADS).contains(&threads)) {
        return Err(format!(
            "--groups {groups} of --threads {each}: give 1 to {MAX_THREADS} threads in all"
        ));
    }
    let group = match args.arrival {
        None => GroupSpec::plain(args.threads, args.busy, args.sleep),
        arrival => GroupSpec { arrival, ..GroupSpec::plain(args.threads, args.busy, NO_PAUSE) },
    };
    if let Some(text) = fault(&group) {
        return Err(text);
    }
    Ok(Shape { name: None, groups: vec![group; groups] })
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = plain_file::read(path, MAX_FILE_BYTES);
    bytes
        .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
        .map_err(|error| format!("cannot be read: {error}"))
}

/// A load as a file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    about: String,
    group: Vec<Entry>,
}

/// Some groups that are alike.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default = "one")]
    count: u32,
    #[serde(default = "one")]
    threads: u32,
    /// Positions in the load's list of CPUs.
    cpus: Option<Vec<usize>>,
    cookie: Option<String>,
    cgroup: Option<String>,
    policy: Option<String>,
    nice: Option<i32>,
    slice: Option<String>,
    quota: Option<String>,
    busy: Option<String>,
    sleep: Option<String>,
    arrival: Option<String>,
    #[serde(rename = "yield")]
    yielding: Option<String>,
    #[serde(rename = "yield-threads")]
    yielders: Option<u32>,
}

fn one() -> u32 {
    1
}

/// The groups of a file, on these CPUs.
fn parse(text: &str, cpus: &[u32]) -> Result<Vec<GroupSpec>, String> {
    // The error has the line, and shows it.
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let threads = file.group.iter().try_fold(0usize, |sum, entry| {
        sum.checked_add((entry.count as usize).checked_mul(entry.threads as usize)?)
    });
    if !threads.is_some_and(|threads| (1..=MAX_THREADS).contains(&threads)) {
        return Err(format!("its groups must have 1 to {MAX_THREADS} threads in all"));
    }
    let mut groups = Vec::new();
    for (number, entry) in (1..).zip(&file.group) {
        let group = entry.group(cpus).and_then(|group| match fault(&group) {
            Some(text) => Err(text),
            None => Ok(group),
        });
        let group = group.map_err(|text| format!("[[group]] number {number}: {text}"))?;
        groups.extend(std::iter::repeat_n(group, entry.count as usize));
    }
    Ok(groups)
}

impl Entry {
    fn group(&self, cpus: &[u32]) -> Result<GroupSpec, String> {
        let sleep = self
            .sleep
            .as_ref()
            .map(|text| units::sleep(text).map_err(|error| format!("sleep = \"{text}\": {error}")));
        let busy = time("busy", &self.busy)?;
        if busy.is_none() && sleep.is_some() {
            return Err("sleep without busy: say how long a burst is".into());
        }
        let arrival = self.arrival.as_ref().map(|text| {
            units::arrival(text).map_err(|error| format!("arrival = \"{text}\": {error}"))
        });
        if arrival.is_some() && (busy.is_none() || sleep.is_some()) {
            return Err(
                "arrival needs busy, the CPU time of each piece of work, and no sleep".into()
            );
        }
        Ok(GroupSpec {
            cpus: self.cpus.as_ref().map_or(Ok(Vec::new()), |places| on(places, cpus))?,
            spread: false,
            cookie: has_own("cookie", &self.cookie)?,
            own_cgroup: has_own("cgroup", &self.cgroup)?,
            policy: Policy {
                class: self.policy.as_deref().map(class).transpose()?,
                nice: self.nice,
                slice: time("slice", &self.slice)?,
            },
            quota: self.quota.as_deref().map(quota).transpose()?,
            yielding: time("yield", &self.yielding)?.unwrap_or_default(),
            yielders: self.yielders,
            arrival: arrival.transpose()?,
            ..GroupSpec::plain(
                self.threads,
                busy.unwrap_or(ALWAYS),
                sleep.transpose()?.unwrap_or(NO_PAUSE),
            )
        })
    }
}

/// Of what a group has for itself, unless it says `none`.
fn has_own(key: &str, value: &Option<String>) -> Result<bool, String> {
    match value.as_deref() {
        None | Some("own") => Ok(true),
        Some("none") => Ok(false),
        Some(other) => Err(format!("{key} = \"{other}\": it is own or none")),
    }
}

fn time(key: &str, value: &Option<String>) -> Result<Option<Duration>, String> {
    match value {
        None => Ok(None),
        Some(text) => match units::duration(text) {
            Ok(time) => Ok(Some(time)),
            Err(error) => Err(format!("{key} = \"{text}\": {error}")),
        },
    }
}

/// CPUs by their places in the load's list.
fn on(places: &[usize], cpus: &[u32]) -> Result<Vec<u32>, String> {
    if places.is_empty() {
        return Err("cpus = []: name one, or leave it out".into());
    }
    places
        .iter()
        .map(|place| {
            cpus.get(*place).copied().ok_or_else(|| {
                format!(
                    "cpus = {places:?}: the load has {} CPUs, counted from 0; name more with \
                 --load-cpus",
                    cpus.len()
                )
            })
        })
        .collect()
}

fn class(text: &str) -> Result<Class, String> {
    let (name, priority) = match text.split_once(':') {
        Some((name, priority)) => (name, priority.parse::<u32>().ok()),
        None => (text, None),
    };
    match (name, priority) {
        ("other", None) if name == text => Ok(Class::Other),
        ("batch", None) if name == text => Ok(Class::Batch),
        ("idle", None) if name == text => Ok(Class::Idle),
        ("fifo", Some(priority)) => Ok(Class::Fifo(priority)),
        ("rr", Some(priority)) => Ok(Class::RoundRobin(priority)),
        _ => Err(format!(
            "policy = \"{text}\": it is other, batch, idle, fifo:PRIORITY or rr:PRIORITY"
        )),
    }
}

/// `50ms/100ms`.
fn quota(text: &str) -> Result<Quota, String> {
    let (time, period) =
        text.split_once('/').ok_or_else(|| bad_quota("it needs the form TIME/PERIOD", text))?;
    let time = units::duration(time).map_err(|error| bad_quota(&error, text))?;
    let period = units::duration(period).map_err(|error| bad_quota(&error, text))?;
    Ok(Quota { time, period })
}

fn bad_quota(why: &str, text: &str) -> String {
    format!("quota = \"{text}\": {why}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use protocol::group::ArrivalSpec;

    use super::*;
    use crate::cli::Cli;
    use crate::status::ExitStatus;

    fn args(words: &[&str]) -> LoadArgs {
        let words = ["schedvmm", "--kernel", "x"].iter().chain(words);
        Cli::try_parse_from(words).expect("parses").run.load
    }

    fn chosen(words: &[&str]) -> Shape {
        let shape = Shape::choose(&args(words), &[2, 3]);
        shape.unwrap_or_else(|failure| panic!("{words:?}: {failure}"))
    }

    #[test]
    fn every_preset_is_a_load_and_says_what_it_is() {
        let list = list_presets();
        assert_eq!(list.lines().count(), PRESETS.len());
        for ((name, _), line) in PRESETS.iter().zip(list.lines()) {
            let about = line.strip_prefix(name).expect("in order").trim();
            assert!((20..100).contains(&about.len()), "{line}");
            assert!(!chosen(&["--preset", name]).groups.is_empty());
        }
        assert_eq!(chosen(&["--preset", "pairs-burst"]).groups, chosen(&[]).groups);
        assert_eq!(chosen(&["--preset", "two-cookie"]).groups[1].cpus, [3]);
        let failure = Shape::choose(&args(&["--preset", "two-cookie"]), &[7]).expect_err("1 CPU");
        assert!(failure.to_string().contains("the load has 1 CPUs"), "{failure}");
    }

    #[test]
    fn a_preset_is_instead_of_plain_options() {
        for words in [
            &["--preset", "busy", "--groups", "3"][..],
            &["--preset", "nonsense"],
            &["--load", "x", "--sleep", "fixed:1s"],
            &["--load", "x", "--preset", "busy"],
        ] {
            let words = ["schedvmm", "--kernel", "x"].iter().chain(words);
            assert!(Cli::try_parse_from(words).is_err());
        }
        assert!(
            Cli::try_parse_from(["schedvmm", "--list-presets"]).expect("alone").lists_presets()
        );
        let host = Cli::try_parse_from(["schedvmm", "host", "--list-presets"]);
        assert!(host.expect("alone").lists_presets());
    }

    #[test]
    fn a_file_says_all_there_is_to_say() {
        let text = "[[group]]\ncount = 2\nthreads = 3\ncpus = [1]\ncookie = \"none\"\n\
                    policy = \"batch\"\nnice = 5\nslice = \"3ms\"\nquota = \"50ms/100ms\"\n\
                    busy = \"10ms\"\nsleep = \"exponential:5ms\"\nyield = \"2s\"\nyield-threads = 2\n\
                    [[group]]\npolicy = \"rr:7\"\ncgroup = \"none\"";
        let ms = Duration::from_millis;
        let first = GroupSpec {
            threads: 3,
            cpus: vec![3],
            spread: false,
            cookie: false,
            policy: Policy { class: Some(Class::Batch), nice: Some(5), slice: Some(ms(3)) },
            quota: Some(Quota { time: ms(50), period: ms(100) }),
            own_cgroup: true,
            yielding: ms(2000),
            yielders: Some(2),
            busy: ms(10),
            sleep: SleepSpec::Exponential(ms(5)),
            arrival: None,
        };
        let last = GroupSpec {
            policy: Policy { class: Some(Class::RoundRobin(7)), ..Policy::default() },
            own_cgroup: false,
            ..GroupSpec::plain(1, ALWAYS, SleepSpec::Fixed(Duration::ZERO))
        };
        assert_eq!(parse(text, &[2, 3]), Ok(vec![first.clone(), first, last]));
        let text = "[[group]]\nbusy = \"1ms\"\narrival = \"periodic:5ms\"";
        let arrival = Some(ArrivalSpec::Periodic(ms(5)));
        let open = GroupSpec { arrival, ..GroupSpec::plain(1, ms(1), NO_PAUSE) };
        assert_eq!(parse(text, &[2]), Ok(vec![open]));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, words) in [
            ("", "missing field `group`"),
            ("group = []", "1 to 4096 threads"),
            ("[[group]]\nthreads = 5000", "1 to 4096 threads"),
            ("[[group]]\ncount = 4294967295\nthreads = 4294967295", "1 to 4096 threads"),
            ("[[group]]\nthread = 2", "unknown field `thread`"),
            ("[[group]]\nnice = 99", "number 1: nice 99"),
            ("[[group]]\ncookie = \"x\"", "own or none"),
            ("[[group]]\ncgroup = \"x\"", "cgroup = \"x\": it is own or none"),
            ("[[group]]\nyield-threads = 1", "number 1: 1 threads yield"),
            ("[[group]]\ncpus = [2]", "has 2 CPUs"),
            ("[[group]]\ncpus = []", "leave it out"),
            ("[[group]]\npolicy = \"fifo\"", "fifo:PRIORITY"),
            ("[[group]]\npolicy = \"other:1\"", "fifo:PRIORITY"),
            ("[[group]]\npolicy = \"idle:x\"", "fifo:PRIORITY"),
            ("[[group]]\nbusy = \"5\"", "busy = \"5\": it needs a number and a unit"),
            ("[[group]]\nbusy = \"0s\"", "longer than 0"),
            ("[[group]]\nsleep = \"fixed:1s\"", "sleep without busy"),
            ("[[group]]\narrival = \"periodic:1s\"", "arrival needs busy"),
            (
                "[[group]]\nbusy = \"1ms\"\nsleep = \"fixed:1s\"\narrival = \"periodic:1s\"",
                "and no sleep",
            ),
            ("[[group]]\nbusy = \"1ms\"\narrival = \"1s\"", "arrival = \"1s\": it needs a kind"),
            ("[[group]]\nbusy = \"1ms\"\narrival = \"poisson:9us\"", "each 9µs: give 10µs"),
            ("[[group]]\nquota = \"5ms\"", "TIME/PERIOD"),
            ("[[group]]\nquota = \"5ms/9\"", "needs a number and a unit"),
            ("[[group]\n", "line 1"),
        ] {
            let error = parse(text, &[2, 3]).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        let dir = tempfile::tempdir().expect("tempdir");
        for path in [dir.path().to_owned(), dir.path().join("none")] {
            let path = path.to_str().expect("UTF-8").to_owned();
            let failure = Shape::choose(&args(&["--load", &path]), &[0]).expect_err("no file");
            assert_eq!(failure.status(), ExitStatus::Usage);
            assert!(failure.to_string().contains(&path), "{failure}");
        }
    }
}
