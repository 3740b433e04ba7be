// SPDX-License-Identifier: Apache-2.0
//! The package sources of this machine: its mirror, its release, its signing key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One archive the machine takes packages from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) uri: String,
    pub(super) suites: Vec<String>,
    pub(super) signed_by: Option<String>,
}

/// `/etc/os-release` of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Release {
    /// The distribution, such as `debian`.
    pub(super) id: String,
    /// The release, such as `bookworm`.
    pub(super) codename: String,
}

impl Release {
    /// This machine's.
    pub(super) fn read() -> Result<Self> {
        let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self::parse(&text).context("`/etc/os-release` names no release, so its archive is unknown")
    }

    fn parse(text: &str) -> Option<Self> {
        Some(Self {
            id: release_field("ID", text)?,
            codename: release_field("VERSION_CODENAME", text)?,
        })
    }
}

fn release_field(name: &str, text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_string())
}

impl Source {
    /// The same archive with other suites.
    pub(super) fn with_suites(&self, suites: &[&str]) -> Self {
        Self { suites: suites.iter().map(ToString::to_string).collect(), ..self.clone() }
    }

    /// As a paragraph of a deb822 file.
    pub(super) fn render(&self) -> String {
        let Self { uri, suites, signed_by } = self;
        let suites = suites.join(" ");
        let mut text = format!("Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\n");
        if let Some(key) = signed_by {
            text += &format!("Signed-By: {key}\n");
        }
        text
    }
}

/// All sources of binary packages on this machine.
pub(super) fn own() -> Vec<Source> {
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
    let enabled =
        stanza_field("Enabled", stanza).is_none_or(|value| !value.eq_ignore_ascii_case("no"));
    let binary = stanza_field("Types", stanza)?.split_whitespace().any(|kind| kind == "deb");
    if !enabled || !binary {
        return None;
    }
    Some(Source {
        uri: stanza_field("URIs", stanza)?.split_whitespace().next()?.into(),
        suites: stanza_field("Suites", stanza)?.split_whitespace().map(String::from).collect(),
        // A key may also stand in the file itself, on further lines; then apt's own keyring
        // has to do.
        signed_by: stanza_field("Signed-By", stanza).filter(|key| key.starts_with('/')),
    })
}

fn stanza_field(name: &str, stanza: &str) -> Option<String> {
    stanza.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_string())
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
    fn other_suites_come_from_the_same_mirror_with_the_same_key() {
        let text = expected().with_suites(&["testing", "unstable"]).render();
        let suites = vec!["testing".into(), "unstable".into()];
        assert_eq!(parse_stanza(&text), Some(Source { suites, ..expected() }));
    }

    #[test]
    fn the_release_is_read() {
        let text = "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_CODENAME=bookworm\n";
        let release = Release { id: "debian".into(), codename: "bookworm".into() };
        assert_eq!(Release::parse(text), Some(release));
        assert_eq!(Release::parse("ID=arch\n"), None);
    }
}
