// SPDX-License-Identifier: Apache-2.0
//! Debian packages: which are there, and how the missing ones come.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::backports;
use crate::process;

/// Questions to the package tools are answered in a fraction of a second.
const ASK_DEADLINE: Duration = Duration::from_secs(30);

/// The installed version of a package; `None` where it is not installed (or no Debian).
pub fn installed_version(package: &str) -> Option<String> {
    let format = "${db:Status-Status} ${Version}";
    let text = ask(Command::new("dpkg-query").args(["-W", "-f", format, package]))?;
    text.strip_prefix("installed ").map(String::from)
}

/// The version apt would install; `None` where it knows none.
pub(super) fn candidate_version(package: &str) -> Option<String> {
    parse_candidate(&ask(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]))?)
}

/// What a program answers; nothing where it is missing or complains.
pub(super) fn ask(command: &mut Command) -> Option<String> {
    let (status, text) = process::capture(command.stderr(Stdio::null()), ASK_DEADLINE).ok()?;
    status.success().then_some(text)
}

/// Reads the answer of `apt-cache policy`.
fn parse_candidate(policy: &str) -> Option<String> {
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?;
    Some(line.trim()).filter(|version| *version != "(none)").map(String::from)
}

/// Installs those of the packages that are missing.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().copied().filter(|name| installed_version(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    require_root(&format!("sudo apt-get install --no-install-recommends {}", missing.join(" ")))?;
    if first_unknown(&missing).is_some() {
        update()?;
    }
    if first_unknown(&missing).is_some() {
        backports::add()?;
        update()?;
    }
    if let Some(name) = first_unknown(&missing) {
        bail!("apt offers no package `{name}`; it is needed, add a package source that has it");
    }
    install(&missing)
}

fn first_unknown<'a>(missing: &[&'a str]) -> Option<&'a str> {
    missing.iter().copied().find(|name| candidate_version(name).is_none())
}

/// Ends with the exact command for an administrator, unless we are one.
pub(super) fn require_root(command: &str) -> Result<()> {
    if ask(Command::new("apt-get").arg("--version")).is_none() {
        bail!(
            "this machine has no apt-get; set-up knows Debian only. Install by hand what \
             this would: {command}"
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "packages are missing or too old, and only root may install them. Run:\n    {command}"
        );
    }
    Ok(())
}

/// Fetches the package lists anew.
pub(super) fn update() -> Result<()> {
    eprintln!("set-up: apt-get update");
    process::run(Command::new("apt-get").args(["-qq", "update"])).context("set-up")
}

/// Installs packages that apt knows.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if attempt(packages).is_ok() {
        return Ok(());
    }
    // Package lists of some age name files that the archive has replaced since.
    update()?;
    attempt(packages).context("set-up")
}

fn attempt(packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-qq", "-y", "--no-install-recommends", "install"]);
    command.args(packages).env("DEBIAN_FRONTEND", "noninteractive");
    // Our own standard output is for results.
    command.stdout(std::io::stderr());
    eprintln!("set-up: {}", process::command_line(&command));
    process::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_read_from_the_policy() {
        let policy = "qemu:\n  Installed: (none)\n  Candidate: 1:7.2+dfsg-7\n  Version table:\n";
        assert_eq!(parse_candidate(policy).as_deref(), Some("1:7.2+dfsg-7"));
        assert_eq!(parse_candidate("x:\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn what_is_not_installed_has_no_version() {
        assert_eq!(installed_version("no-such-package-at-all"), None);
    }
}
