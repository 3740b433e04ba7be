// SPDX-License-Identifier: Apache-2.0
//! Debian's backports, added from what the machine's own package sources say: its mirror stays
//! its mirror, and its signing key stays its key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::packages;

/// Where the added source goes.
const SOURCES_FILE: &str = "/etc/apt/sources.list.d/schedvmm-backports.sources";

/// One archive the machine takes packages from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    signed_by: Option<String>,
}

/// Makes backports of this Debian known to apt, and says the suite's name.
pub(super) fn add() -> Result<String> {
    let (suite, text) = wanted()?;
    if let Some(text) = text {
        eprintln!("set-up: adding {suite} as {SOURCES_FILE}:\n{text}");
        std::fs::write(SOURCES_FILE, text)
            .with_context(|| format!("cannot write `{SOURCES_FILE}`"))?;
    }
    packages::update()?;
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

/// The suite, and the text of the sources file that is missing for it, if one is.
fn wanted() -> Result<(String, Option<String>)> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_string())
        .context("`/etc/os-release` names no release, so its backports are unknown")?;
    let suite = format!("{codename}-backports");
    let sources = own_sources();
    if sources.iter().any(|source| source.suites.contains(&suite)) {
        return Ok((suite, None));
    }
    let Some(base) = sources.iter().find(|source| source.suites.contains(&codename)) else {
        bail!("no package source of this machine has `{codename}`; add `{suite}` by hand");
    };
    let text = render(base, &suite);
    Ok((suite, Some(text)))
}

/// A sources file for `suite` of the archive that `base` is from.
fn render(base: &Source, suite: &str) -> String {
    let Source { uri, signed_by, .. } = base;
    let mut text = format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n");
    if let Some(key) = signed_by {
        text += &format!("Signed-By: {key}\n");
    }
    text
}

/// All sources of binary packages on this machine.
fn own_sources() -> Vec<Source> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let entries = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    files.iter().flat_map(|file| parse_file(file)).collect()
}

fn parse_file(file: &Path) -> Vec<Source> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("sources") => text.split("\n\n").filter_map(parse_stanza).collect(),
        Some("list") => text.lines().filter_map(parse_line).collect(),
        _ => Vec::new(),
    }
}

/// One paragraph of a deb822 file.
fn parse_stanza(stanza: &str) -> Option<Source> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_string())
        })
    };
    let enabled = field("Enabled").is_none_or(|value| !value.eq_ignore_ascii_case("no"));
    let binary = field("Types")?.split_whitespace().any(|kind| kind == "deb");
    if !enabled || !binary {
        return None;
    }
    Some(Source {
        uri: field("URIs")?.split_whitespace().next()?.into(),
        suites: field("Suites")?.split_whitespace().map(String::from).collect(),
        // A key may also stand in the file itself, on further lines; then apt's own keyring
        // has to do.
        signed_by: field("Signed-By").filter(|key| key.starts_with('/')),
    })
}

/// One line of the older format: `deb [signed-by=KEY] URI SUITE COMPONENT…`.
fn parse_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb")?.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    Some(Source {
        uri: words.next()?.into(),
        suites: vec![words.next()?.into()],
        signed_by: options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(String::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZA: &str = "Types: deb\n# a remark\nURIs: http://mirror.example/debian\n\
                          Suites: bookworm bookworm-updates\nComponents: main\n\
                          Signed-By: /usr/share/keyrings/debian.gpg\n";

    fn expected() -> Source {
        Source {
            uri: "http://mirror.example/debian".into(),
            suites: vec!["bookworm".into(), "bookworm-updates".into()],
            signed_by: Some("/usr/share/keyrings/debian.gpg".into()),
        }
    }

    #[test]
    fn both_formats_are_read() {
        assert_eq!(parse_stanza(STANZA), Some(expected()));
        let line = "deb [arch=amd64 signed-by=/usr/share/keyrings/debian.gpg] \
                    http://mirror.example/debian bookworm main contrib";
        let one_suite = Source { suites: vec!["bookworm".into()], ..expected() };
        assert_eq!(parse_line(line), Some(one_suite.clone()));
        let bare = "deb http://mirror.example/debian bookworm main";
        assert_eq!(parse_line(bare), Some(Source { signed_by: None, ..one_suite }));
    }

    #[test]
    fn what_is_off_or_holds_sources_only_is_left_out() {
        assert_eq!(parse_stanza(&format!("{STANZA}Enabled: no\n")), None);
        assert_eq!(parse_stanza(&STANZA.replace("Types: deb", "Types: deb-src")), None);
        for line in ["", "# deb http://x y main", "deb-src http://x y main", "deb [broken"] {
            assert_eq!(parse_line(line), None, "{line}");
        }
    }

    #[test]
    fn backports_come_from_the_same_mirror_with_the_same_key() {
        let text = render(&expected(), "bookworm-backports");
        let parsed = parse_stanza(&text).unwrap();
        assert_eq!(parsed, Source { suites: vec!["bookworm-backports".into()], ..expected() });
    }
}
