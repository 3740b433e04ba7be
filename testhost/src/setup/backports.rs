// SPDX-License-Identifier: Apache-2.0
//! Debian's backports, added from what the machine's own package sources say: its mirror stays
//! its mirror, and its signing key stays its key.

use anyhow::{Context, Result, bail};

use super::sources::{self, Release};

/// Where the added source goes.
const SOURCES_FILE: &str = "/etc/apt/sources.list.d/schedvmm-backports.sources";

/// Adds backports of this Debian to apt's sources, whose lists are to be fetched then, and says the
/// suite's name.
pub(super) fn add() -> Result<String> {
    let (suite, text) = wanted()?;
    if let Some(text) = text {
        eprintln!("set-up: adding {suite} as {SOURCES_FILE}:\n{text}");
        std::fs::write(SOURCES_FILE, text)
            .with_context(|| format!("cannot write `{SOURCES_FILE}`"))?;
    }
    Ok(suite)
}

/// The suite's name, and what an administrator types to have it.
pub(super) fn by_hand() -> Result<(String, String)> {
    let (suite, text) = wanted()?;
    let add = text.map(|text| {
        let text = text.trim_end().replace('\n', "\\n");
        format!("printf '{text}\\n' | sudo tee {SOURCES_FILE}\n    ")
    });
    Ok((suite, format!("{}sudo apt-get update", add.unwrap_or_default())))
}

/// The suite, and the text of the sources file that is missing for it, if one is. The archive
/// itself says that nothing is upgraded to what is there unasked (`NotAutomatic`).
fn wanted() -> Result<(String, Option<String>)> {
    let codename = Release::read()?.codename;
    let suite = format!("{codename}-backports");
    let sources = sources::own();
    if sources.iter().any(|source| source.suites.contains(&suite)) {
        return Ok((suite, None));
    }
    let Some(base) = sources.iter().find(|source| source.suites.contains(&codename)) else {
        bail!("no package source of this machine has `{codename}`; add `{suite}` by hand");
    };
    let text = base.with_suites(&[&suite]).render();
    Ok((suite, Some(text)))
}
