// SPDX-License-Identifier: Apache-2.0
//! Packages that are looked up and unpacked, not installed: a view of the package archives of
//! our own, with its lists in our cache. The machine's apt neither sees it nor takes anything
//! from it, so that a suite newer than this machine's cannot upgrade anything, and it takes no
//! administrator. Packages are checked against the archive's signature as ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::packages;
use super::sources::{self, Release, Source};
use crate::lock::Lock;
use crate::{process, project};

/// Lists of this age are fetched anew.
const LISTS_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Lists are some 60 MB, a package of kernel sources three times that.
const FETCH_DEADLINE: Duration = Duration::from_secs(15 * 60);
const ASK_DEADLINE: Duration = Duration::from_secs(5 * 60);
const UNPACK_DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Suites of Debian that are worth a look on any Debian, beside the machine's own and its
/// backports. One that a mirror does not have is left out.
const DEBIAN_SUITES: [&str; 7] = [
    "oldoldstable",
    "oldstable",
    "stable",
    "stable-backports",
    "testing",
    "unstable",
    "experimental",
];

/// A package that the archives offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Its name.
    pub package: String,
    /// Its newest version.
    pub version: String,
    /// The suite that has this version.
    pub suite: String,
}

/// Our view of the archives.
pub struct Archive {
    dir: PathBuf,
    sources: String,
}

impl Archive {
    /// What this machine's package sources lead to.
    ///
    /// # Errors
    /// It has no apt, or none of its sources is its distribution's archive.
    pub fn open() -> Result<Self> {
        if packages::ask(Command::new("apt-get").arg("--version")).is_none() {
            bail!("this machine has no apt-get; packages are looked up on Debian only");
        }
        let release = Release::read()?;
        let own = sources::own();
        let sources = view(&release, &own)?;
        let dir = project::cache_dir()?.join("apt");
        for folder in ["lists/partial", "cache/archives/partial", "state"] {
            let path = dir.join(folder);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot make `{}`", path.display()))?;
        }
        Ok(Self { dir, sources })
    }

    /// The newest version of each package whose name begins with `prefix`. Lists that are a
    /// day old are fetched anew first; where that fails, old ones have to do.
    ///
    /// # Errors
    /// There are no lists, and none can be fetched.
    pub fn offers(&self, prefix: &str) -> Result<Vec<Offered>> {
        let busy = "another look-up of packages";
        let _lock = Lock::take(&self.dir.join("lock"), FETCH_DEADLINE, busy)?;
        let fetched = self.refresh();
        let names = self.ask(&["pkgnames", prefix])?;
        let mut madison = vec!["madison"];
        madison.extend(names.split_whitespace());
        let offers = parse_madison(&self.ask(&madison)?);
        match fetched {
            Err(error) if offers.is_empty() => Err(error),
            Err(error) => {
                eprintln!("set-up: not all package lists are fresh: {error:#}");
                Ok(offers)
            }
            Ok(()) => Ok(offers),
        }
    }

    /// Downloads a package and unpacks it in `dir`.
    ///
    /// # Errors
    /// The archive no longer has it, or `dir` has no room.
    pub fn unpack(&self, offered: &Offered, dir: &Path, log: &Path) -> Result<()> {
        let Offered { package, version, suite } = offered;
        eprintln!(
            "set-up: downloading {package} {version} from {suite}, to be unpacked, not installed"
        );
        let mut download = self.command("apt-get");
        download.args(["-q", "download", &format!("{package}={version}")]).current_dir(dir);
        let what = format!("downloading {package}");
        process::run_logged(&mut download, log, &what, FETCH_DEADLINE)?;
        let file = fs::read_dir(dir)
            .context("cannot read the folder of the download")?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get downloaded no file of {package}"))?;
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(&file).arg(dir);
        process::run_logged(&mut unpack, log, &format!("unpacking {package}"), UNPACK_DEADLINE)?;
        fs::remove_file(&file).with_context(|| format!("cannot remove `{}`", file.display()))
    }

    /// Fetches the lists unless they are fresh.
    fn refresh(&self) -> Result<()> {
        let sources_file = self.dir.join("archive.sources");
        let unchanged = fs::read_to_string(&sources_file).is_ok_and(|text| text == self.sources);
        let stamp = self.dir.join("fetched");
        let age = fs::metadata(&stamp)
            .and_then(|stamp| stamp.modified())
            .map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
        if unchanged && age.is_ok_and(|age| age < LISTS_AGE) {
            return Ok(());
        }
        eprintln!(
            "set-up: looking up packages, with lists of our own in {}:\n{}",
            self.dir.display(),
            self.sources
        );
        write(&sources_file, &self.sources)?;
        write(&self.dir.join("apt.conf"), &self.configuration())?;
        let log = self.dir.join("update.log");
        // A log that is not there is as good as a removed one.
        let _ = fs::remove_file(&log);
        let mut update = self.command("apt-get");
        update.args(["-q", "update"]);
        process::run_logged(&mut update, &log, "fetching package lists", FETCH_DEADLINE)?;
        write(&stamp, "")
    }

    /// apt's configuration: all it keeps is in our folder, and only lists of packages are
    /// fetched.
    fn configuration(&self) -> String {
        let dir = self.dir.display();
        format!(
            "Dir::State \"{dir}/state\";\n\
             Dir::State::lists \"{dir}/lists\";\n\
             Dir::Cache \"{dir}/cache\";\n\
             Dir::Etc::sourcelist \"{dir}/archive.sources\";\n\
             Dir::Etc::sourceparts \"-\";\n\
             Dir::Etc::preferences \"-\";\n\
             Dir::Etc::preferencesparts \"-\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Acquire::IndexTargets::deb::CNF::DefaultEnabled \"false\";\n\
             APT::Sandbox::User \"root\";\n"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    /// What apt-cache answers. It builds its caches first, which takes a busy machine minutes.
    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("apt-cache");
        let (status, text) = process::capture(command.args(arguments), ASK_DEADLINE)?;
        if !status.success() {
            bail!("`apt-cache {}` ended with {status}", arguments.join(" "));
        }
        Ok(text)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}

/// The sources of our view: those of this machine's archive, and on Debian its newer suites.
fn view(release: &Release, own: &[Source]) -> Result<String> {
    let codename = release.codename.as_str();
    let archive: Vec<_> = own
        .iter()
        .filter(|source| {
            source.suites.iter().any(|suite| {
                suite
                    .strip_prefix(codename)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
        })
        .collect();
    let Some(base) = archive.iter().find(|source| source.suites.iter().any(|s| s == codename))
    else {
        bail!("no package source of this machine has `{codename}`; add its archive to apt");
    };
    let mut text: Vec<String> = archive.iter().map(|source| source.render()).collect();
    if release.id == "debian" {
        let backports = format!("{codename}-backports");
        let suites = DEBIAN_SUITES.into_iter().chain([backports.as_str()]);
        let new: Vec<&str> = suites
            .filter(|suite| !archive.iter().any(|s| s.suites.iter().any(|own| own == suite)))
            .collect();
        text.push(base.with_suites(&new).render());
    }
    Ok(text.join("\n"))
}

/// Reads the answer of `apt-cache madison`: package, version and origin, newest version first.
fn parse_madison(text: &str) -> Vec<Offered> {
    let mut offers: Vec<Offered> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('|').map(str::trim);
        let (Some(package), Some(version), Some(origin)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // `URI SUITE/COMPONENT ARCHITECTURE Packages`; sources and installed ones are others.
        let mut words = origin.split_whitespace();
        let (Some(_uri), Some(place), Some(_), Some("Packages")) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if offers.iter().any(|known| known.package == package) {
            continue;
        }
        let suite = place.split_once('/').map_or(place, |(suite, _)| suite);
        let [package, version, suite] = [package, version, suite].map(String::from);
        offers.push(Offered { package, version, suite });
    }
    offers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_of_a_package_is_its_newest() {
        let text = " x-6.1 |  6.1.176-1 | http://m.example/debian oldstable/main amd64 Packages\n \
                    x-6.1 |  6.1.170-3 | http://m.example/debian oldstable/main amd64 Packages\n \
                    x-7.3 | 7.3~rc7-1~exp1 | http://m.example/debian experimental/main amd64 \
                    Packages\n \
                    x-7.3 | 7.3~rc8-1 | http://m.example/debian unstable/main Sources\nnonsense\n";
        let offered = |package: &str, version: &str, suite: &str| Offered {
            package: package.into(),
            version: version.into(),
            suite: suite.into(),
        };
        let expected = [
            offered("x-6.1", "6.1.176-1", "oldstable"),
            offered("x-7.3", "7.3~rc7-1~exp1", "experimental"),
        ];
        assert_eq!(parse_madison(text), expected);
    }

    #[test]
    fn newer_suites_of_debian_are_looked_at_and_strangers_are_not() {
        let source = |uri: &str, suites: &[&str]| Source {
            uri: uri.into(),
            suites: suites.iter().map(ToString::to_string).collect(),
            signed_by: Some("/key".into()),
        };
        let own = [
            source("http://m.example/debian", &["bookworm", "bookworm-updates"]),
            source("http://m.example/debian-security", &["bookworm-security"]),
            source("http://stranger.example", &["nodistro"]),
        ];
        let release = |id: &str| Release { id: id.into(), codename: "bookworm".into() };
        let text = view(&release("debian"), &own).unwrap();
        assert!(!text.contains("stranger"), "{text}");
        for suite in
            ["bookworm-security", "bookworm-backports", "oldoldstable", "unstable", "experimental"]
        {
            assert_eq!(text.matches(suite).count(), 1, "{suite} in {text}");
        }
        let text = view(&release("other"), &own).unwrap();
        assert!(text.contains("bookworm-updates") && !text.contains("unstable"), "{text}");
        assert!(view(&release("debian"), &own[2..]).is_err());
    }
}
