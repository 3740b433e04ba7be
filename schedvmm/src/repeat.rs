// SPDX-License-Identifier: Apache-2.0
//! A run once more, as an earlier result says it was called.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use guest::error::Owner;

use crate::machine;
use crate::result_file::ResultFile;
use crate::status::{ExitStatus, Failure, OrFail};

/// What is needed of an earlier result.
#[derive(Debug, Deserialize)]
struct Earlier {
    command_line: Vec<String>,
    working_directory: PathBuf,
}

/// Options that say where results go: not repeated, for the place is taken.
const OUTPUT: &str = "--output";
/// Options whose file is looked for where the earlier run was started.
const INPUTS: [&str; 2] = ["--kernel", "--load"];

/// Becomes the earlier run: returns only if that cannot be.
///
/// # Errors
/// The file is no result, or this program cannot be started again.
pub fn run(from: &Path, output: Option<&Path>, json: bool) -> Result<ExitStatus, Failure> {
    let earlier: Earlier = ResultFile::read(from)?.of_it()?;
    let mut words = words(&earlier);
    if let Some(path) = output {
        words.extend([OUTPUT.into(), path.into()]);
    }
    if json && !words.iter().any(|word| word == "--json") {
        words.push("--json".into());
    }
    let executable = machine::own_executable()?;
    // Only an error returns from here.
    Err(Command::new(executable).args(words).exec()).or_fail(Owner::Host)
}

/// The earlier words without the program, the output, and with the kernel's path from here.
fn words(earlier: &Earlier) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut rest = earlier.command_line.iter().skip(1);
    while let Some(word) = rest.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word.as_str(), None),
        };
        if name == OUTPUT {
            if value.is_none() {
                rest.next();
            }
        } else if INPUTS.contains(&name) {
            let value = value.or_else(|| rest.next().map(String::as_str)).unwrap_or_default();
            words.extend([name.into(), earlier.working_directory.join(value).into()]);
        } else {
            words.push(word.into());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_output_is_new_and_the_kernel_the_same() {
        let repeat = |line: &[&str]| {
            let command_line = line.iter().map(|word| (*word).to_owned()).collect();
            let working_directory = "/there".into();
            words(&Earlier { command_line, working_directory })
        };
        let found = repeat(&["x", "--kernel", "a/bzImage", "--output", "r", "--seed", "7"]);
        assert_eq!(found, ["--kernel", "/there/a/bzImage", "--seed", "7"]);
        let found = repeat(&["x", "--output=r", "--kernel=/abs", "--append=a=b", "--json"]);
        assert_eq!(found, ["--kernel", "/abs", "--append=a=b", "--json"]);
        assert_eq!(repeat(&["x", "host", "--groups", "2"]), ["host", "--groups", "2"]);
        assert!(repeat(&["x"]).is_empty());
    }

    #[test]
    fn what_is_no_result_is_a_usage_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("result.json");
        let refused = |text: &str| {
            fs::write(&file, text).expect("write");
            let failure = run(&file, None, false).expect_err("no result");
            assert_eq!(failure.status(), ExitStatus::Usage);
            failure.to_string()
        };
        assert!(refused("{").contains("no result.json"));
        let bare = format!(r#"{{"schema": "{}"}}"#, crate::result::SCHEMA);
        assert!(refused(&bare).contains("command_line"));
        let other = r#"{"schema": "other/9", "command_line": [], "working_directory": "/"}"#;
        assert!(refused(other).contains("other/9"));
        let none = run(&dir.path().join("none"), None, false).expect_err("no file");
        assert!(none.to_string().contains("cannot read"), "{none}");
    }
}
