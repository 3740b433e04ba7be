// SPDX-License-Identifier: Apache-2.0
//! The project's source files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proc_macro2::LineColumn;
use syn::spanned::Spanned;
use syn::{Attribute, Item};

/// A source file, its tests apart.
pub(super) struct Source {
    /// Below the project's root.
    pub path: String,
    /// The crate's name and the module's, such as `["vmm", "vcpu", "run"]`.
    pub module: Vec<String>,
    /// Its lines.
    pub lines: Vec<String>,
    /// Its items, without what only tests have.
    pub items: Vec<Item>,
    /// Those that only tests have.
    pub test_items: Vec<Item>,
    /// Lines that only tests have, counted from 1.
    tests: Vec<(usize, usize)>,
}

/// All files of all crates.
pub(super) fn all(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut crates: Vec<_> = fs::read_dir(root)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("Cargo.toml").is_file())
        .collect();
    crates.sort();
    for folder in crates {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut files = Vec::new();
        walk(&folder.join("src"), &mut files)?;
        if folder.join("tests").is_dir() {
            walk(&folder.join("tests"), &mut files)?;
        }
        files.sort();
        for file in files {
            let module = module_of(&name.replace('-', "_"), &folder.join("src"), &file);
            sources.push(Source::read(root, &file, module)?);
        }
    }
    Ok(sources)
}

fn is_for_tests(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    stem == "tests"
        || stem.ends_with("_tests")
        || stem.ends_with("testing")
        || stem.ends_with("_properties")
        || path.contains("/tests/")
        || path.contains("/testing/")
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn module_of(name: &str, src: &Path, file: &Path) -> Vec<String> {
    let below = file.strip_prefix(src).unwrap_or(file).with_extension("");
    let mut module = vec![name.to_owned()];
    module.extend(below.iter().map(|part| part.to_string_lossy().into_owned()));
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

impl Source {
    fn read(root: &Path, file: &Path, module: Vec<String>) -> Result<Self> {
        let path = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let text = fs::read_to_string(file).with_context(|| format!("cannot read `{path}`"))?;
        Self::parse(path, module, &text)
    }

    fn parse(path: String, module: Vec<String>, text: &str) -> Result<Self> {
        let parsed = syn::parse_file(text).with_context(|| format!("`{path}` is no Rust"))?;
        // `tests.rs` and its like are behind #[cfg(test)] where they are declared.
        let whole = is_for_tests(&path);
        let (test_items, items): (Vec<_>, Vec<_>) = parsed
            .items
            .into_iter()
            .partition(|item| whole || attributes(item).iter().any(is_test));
        let tests = test_items.iter().map(lines_of).collect();
        let lines = text.lines().map(str::to_owned).collect();
        Ok(Self { path, module, lines, items, test_items, tests })
    }

    /// Whether only tests have it.
    pub(super) fn is_for_tests(&self) -> bool {
        is_for_tests(&self.path)
    }

    /// Whether it is of one of these crates.
    pub(super) fn is_of(&self, crates: &[&str]) -> bool {
        self.module.first().is_some_and(|name| crates.contains(&name.as_str()))
    }

    /// As in a file of its own.
    #[cfg(test)]
    pub(super) fn of_text(module: Vec<String>, text: &str) -> Self {
        Self::parse(module.join("/") + ".rs", module, text).unwrap()
    }

    /// Lines that are no comments, not empty and no tests.
    pub(super) fn code_lines(&self) -> usize {
        self.product_lines().filter(|line| is_code(line.trim())).count()
    }

    /// The text without tests.
    pub(super) fn text_without_tests(&self) -> String {
        self.product_lines().collect::<Vec<_>>().join("\n")
    }

    fn is_of_tests(&self, number: usize) -> bool {
        self.tests.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    fn product_lines(&self) -> impl Iterator<Item = &str> {
        let numbered = self.lines.iter().enumerate();
        numbered.filter(|(index, _)| !self.is_of_tests(index + 1)).map(|(_, line)| line.as_str())
    }
}

fn is_code(line: &str) -> bool {
    !line.is_empty() && !line.starts_with("//")
}

fn lines_of(item: &Item) -> (usize, usize) {
    let span = item.span();
    let (LineColumn { line: first, .. }, LineColumn { line: last, .. }) =
        (span.start(), span.end());
    (first, last)
}

/// `#[cfg(test)]`, `#[test]`.
pub(super) fn is_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("test")
        || (attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|it| it == "test"))
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
