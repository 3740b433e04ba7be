// SPDX-License-Identifier: Apache-2.0
//! The Bochs that simulates an Intel host: found, judged by its version, installed if need be.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::packages;
use crate::process;

/// The program. Not `bochs`, which is a script that asks for a configuration.
pub(crate) const BOCHS: &str = "bochs-bin";

/// The oldest whose options are known. Before 2.7 there was no Skylake with VMX as Linux wants it.
const OLDEST: (u32, u32) = (2, 7);

/// The program, its BIOS and its VGA's (bochsbios has a link to that, and only recommends it), and its
/// display that needs neither screen nor port.
const PACKAGES: [&str; 4] = ["bochs", "bochsbios", "vgabios", "bochs-term"];

/// It prints its name and ends.
const ASK_DEADLINE: Duration = Duration::from_secs(30);

/// Makes sure there is a Bochs that simulates what we need. Only the one by the usual name is
/// installed.
///
/// # Errors
/// It is missing and cannot be installed, it does not run, or it is too old.
pub fn ensure_bochs(program: &Path) -> Result<()> {
    if program == Path::new(BOCHS) {
        packages::ensure(&PACKAGES)?;
    }
    let version = program_version(program)?;
    if version < OLDEST {
        bail!(
            "Bochs {}.{} (`{}`) is too old for the simulated host, which needs {}.{}; install a \
             newer one, or use `--venue emulated`",
            version.0,
            version.1,
            program.display(),
            OLDEST.0,
            OLDEST.1
        );
    }
    Ok(())
}

/// What the program says of itself.
fn program_version(program: &Path) -> Result<(u32, u32)> {
    let mut ask = Command::new(program);
    ask.arg("--help").stderr(Stdio::null());
    let (_, text) =
        process::capture(&mut ask, ASK_DEADLINE).with_context(|| does_not_run(program))?;
    parse_version(&text).with_context(|| does_not_run(program))
}

fn does_not_run(program: &Path) -> String {
    format!(
        "the simulated host needs Bochs, and `{}` does not run; install {}, or use `--venue emulated`",
        program.display(),
        PACKAGES.join(", ")
    )
}

/// `Bochs x86 Emulator 2.7` to (2, 7).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let rest = text.split_once("Bochs x86 Emulator ")?.1;
    let (major, rest) = rest.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn versions_are_read() {
        let text = "=====\n       Bochs x86 Emulator 2.7\n   Built from SVN\n";
        assert_eq!(parse_version(text), Some((2, 7)));
        assert_eq!(parse_version("Bochs x86 Emulator 3.0-rc1"), Some((3, 0)));
        assert_eq!(parse_version("nonsense 2.7"), None);
    }

    #[test]
    fn an_old_or_missing_one_is_refused_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("bochs-bin");
        let missing = format!("{:#}", ensure_bochs(&program).unwrap_err());
        assert!(missing.contains("does not run") && missing.contains("install bochs"), "{missing}");
        write(&program, "#!/bin/sh\necho '  Bochs x86 Emulator 2.6.11'\n").unwrap();
        set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let old = ensure_bochs(&program).unwrap_err().to_string();
        assert!(old.contains("2.6") && old.contains("too old") && old.contains("2.7"), "{old}");
        write(&program, "#!/bin/sh\necho '  Bochs x86 Emulator 2.7'\n").unwrap();
        ensure_bochs(&program).unwrap();
    }
}
