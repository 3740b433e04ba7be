// SPDX-License-Identifier: Apache-2.0
//! Tests of what is written for people: links lead somewhere, and the first page stays short.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use testhost::project;

/// Of the first page, command lines and tables among them.
const MAX_README_WORDS: usize = 1000;

fn pages() -> Vec<PathBuf> {
    let root = project::root();
    let mut pages = Vec::new();
    for folder in [root.to_owned(), root.join("docs")] {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// What a heading is called in a link, as forges make it: lower case, dashes for blanks, no other
/// punctuation.
fn anchor(heading: &str) -> String {
    let kept =
        heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).expect("a page");
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// Where the links of a page lead, but for those to other sites.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://"))
}

#[test]
fn links_lead_to_pages_and_headings_that_are_there() {
    let pages = pages();
    let mut checked = 0;
    for page in &pages {
        let text = fs::read_to_string(page).expect("a page");
        for link in links(&text) {
            let (file, heading) = link.split_once('#').map_or((link, None), |(f, h)| (f, Some(h)));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a folder").join(file),
            };
            assert!(target.exists(), "{}: nothing at {link}", page.display());
            if let Some(heading) = heading {
                assert!(anchors(&target).contains(heading), "{}: no {link}", page.display());
            }
            checked += 1;
        }
    }
    assert!(pages.len() > 10 && checked > 50, "{} pages, {checked} links", pages.len());
}

#[test]
fn the_first_page_is_read_in_minutes() {
    let text = fs::read_to_string(project::root().join("README.md")).expect("README.md");
    let words = text.split_whitespace().count();
    assert!(words <= MAX_README_WORDS, "{words} words in README.md");
}
