// SPDX-License-Identifier: Apache-2.0
//! The QEMU that emulates the test host: found, judged by its version, installed if need be.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{backports, packages};

/// The program.
pub const QEMU: &str = "qemu-system-x86_64";

/// QEMU 7.2 loses a race in multi-threaded TCG when a guest patches its own text: an
/// `Oops: int3` or a silent hang of the emulated kernel.
const OLDEST: (u32, u32) = (8, 1);

/// The program's package, those that must be of its version, and the firmware of its microvm
/// machine.
const PACKAGES: [&str; 4] =
    ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

/// Makes sure there is a QEMU that emulates correctly.
pub fn ensure_qemu() -> Result<()> {
    if let Some(version) = program_version()
        && version >= OLDEST
    {
        return Ok(());
    }
    let by_default = offered_by_default();
    packages::require_root(&by_hand(by_default))?;
    if by_default {
        packages::install(&PACKAGES)?;
    } else {
        let suite = backports::add()?;
        packages::update()?;
        let names = from_suite(&suite);
        packages::install(&names.each_ref().map(String::as_str))?;
    }
    let version = program_version().with_context(|| format!("`{QEMU}` does not run"))?;
    refuse_old(version)
}

/// The packages by names that apt takes from a suite. Not `-t`: that takes libraries from
/// there too, and then the development packages of Debian itself no longer fit them.
fn from_suite(suite: &str) -> [String; 4] {
    PACKAGES.map(|package| format!("{package}/{suite}"))
}

/// What an administrator types where we may not.
fn by_hand(offered_by_default: bool) -> String {
    let install = "sudo apt-get install --no-install-recommends";
    match backports::by_hand() {
        Ok((suite, commands)) if !offered_by_default => {
            format!("{commands}\n    {install} {}", from_suite(&suite).join(" "))
        }
        _ => format!("{install} {}", PACKAGES.join(" ")),
    }
}

/// Whether apt's own choice is new enough. A machine without package lists gets them first.
fn offered_by_default() -> bool {
    let known = packages::candidate_version(PACKAGES[0]).is_some();
    if !known && packages::require_root("apt-get update").is_ok() {
        // Without lists the answer below is no, and the step after it reports what is wrong.
        let _ = packages::update();
    }
    let candidate = packages::candidate_version(PACKAGES[0]);
    candidate.and_then(|version| parse_version(&version)).is_some_and(|version| version >= OLDEST)
}

/// Says why an old QEMU will not do.
fn refuse_old(version: (u32, u32)) -> Result<()> {
    if version < OLDEST {
        bail!(
            "QEMU {}.{} is too old: before {}.{} its multi-threaded emulation loses a race when \
             a kernel patches its own text, and emulated hosts hang. Install a newer one",
            version.0,
            version.1,
            OLDEST.0,
            OLDEST.1
        );
    }
    Ok(())
}

/// What the installed program says of itself.
fn program_version() -> Option<(u32, u32)> {
    let text = packages::ask(Command::new(QEMU).arg("--version"))?;
    parse_version(text.strip_prefix("QEMU emulator version ")?)
}

/// `1:10.0.2+ds-2` or `10.0.2 (Debian …)` to (10, 0).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let text = text.split_whitespace().next()?;
    let text = text.split_once(':').map_or(text, |(_epoch, rest)| rest);
    let (major, rest) = text.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_programs_and_packages_are_read() {
        assert_eq!(parse_version("1:7.2+dfsg-7+deb12u18+b3"), Some((7, 2)));
        assert_eq!(parse_version("10.0.2 (Debian 1:10.0.2+ds-2)"), Some((10, 0)));
        assert_eq!(parse_version("10.0.2"), Some((10, 0)));
        assert_eq!(parse_version("nonsense"), None);
    }

    #[test]
    fn an_old_qemu_is_refused_with_the_reason() {
        assert!(refuse_old((8, 1)).is_ok());
        assert!(refuse_old((10, 0)).is_ok());
        let error = refuse_old((7, 2)).unwrap_err().to_string();
        assert!(error.contains("7.2") && error.contains("loses a race"), "{error}");
    }
}
