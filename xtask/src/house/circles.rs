// SPDX-License-Identifier: Apache-2.0
//! Modules that import each other.
//!
//! A module and those inside it are one family: what they take from each other is no circle.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Path, UseTree};

use super::source::Source;

type Module = Vec<String>;

/// Groups of modules each of which reaches all others of it.
pub(super) fn find(sources: &[Source]) -> Vec<Vec<String>> {
    let modules: BTreeSet<Module> = sources.iter().map(|source| source.module.clone()).collect();
    let mut edges: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for source in sources {
        let mut imports = Imports { module: &source.module, paths: Vec::new() };
        for item in &source.items {
            imports.visit_item(item);
        }
        let targets = imports.paths.iter().filter_map(|path| resolve(&modules, path));
        let targets = targets.filter(|target| !is_family(&source.module, target));
        edges.entry(&source.module).or_default().extend(targets);
    }
    groups(&edges)
}

/// The module that a path leads into.
fn resolve<'a>(modules: &'a BTreeSet<Module>, path: &[String]) -> Option<&'a Module> {
    (2..=path.len()).rev().find_map(|length| modules.get(&path[..length].to_vec()))
}

fn is_family(one: &Module, other: &Module) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Strongly connected components of more than one module: who reaches whom, both ways.
fn groups(edges: &BTreeMap<&Module, BTreeSet<&Module>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        edges.keys().map(|from| (*from, reach(edges, from))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (from, to) in &reached {
        if !to.contains(from) {
            continue;
        }
        found.insert(
            to.iter()
                .filter(|other| reached.get(**other).is_some_and(|it| it.contains(*from)))
                .map(|module| module.join("::"))
                .collect(),
        );
    }
    found.into_iter().collect()
}

fn reach<'a>(
    edges: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
    from: &Module,
) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Module> = edges.get(from).into_iter().flatten().copied().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(edges.get(module).into_iter().flatten());
        }
    }
    reached
}

/// Absolute paths that a module names.
struct Imports<'a> {
    module: &'a Module,
    paths: Vec<Module>,
}

impl Imports<'_> {
    fn add(&mut self, path: &[String]) {
        let mut base = match path.first().map(String::as_str) {
            Some("crate") => self.module[..1].to_vec(),
            Some("self") => self.module.clone(),
            Some("super") => self.module[..self.module.len().saturating_sub(1)].to_vec(),
            _ => return self.paths.push(path.to_vec()),
        };
        let mut rest = &path[1..];
        while rest.first().is_some_and(|part| part == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        self.paths.push(base);
    }

    fn tree(&mut self, prefix: &[String], tree: &UseTree) {
        match tree {
            UseTree::Path(path) => self.tree(&joined(&path.ident, prefix), &path.tree),
            UseTree::Name(name) => self.add(&joined(&name.ident, prefix)),
            UseTree::Rename(rename) => self.add(&joined(&rename.ident, prefix)),
            UseTree::Glob(_) => self.add(prefix),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(prefix, tree)),
        }
    }
}

fn joined(name: &syn::Ident, prefix: &[String]) -> Vec<String> {
    [prefix, &[name.to_string()]].concat()
}

impl<'ast> Visit<'ast> for Imports<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let names: Module = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if names.len() > 1 {
            self.add(&names);
        }
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_that_reach_each_other_are_a_group() {
        let module = |name: &str| vec!["a".to_owned(), name.to_owned()];
        let (one, two, three) = (module("one"), module("two"), module("three"));
        let edges = BTreeMap::from([
            (&one, BTreeSet::from([&two])),
            (&two, BTreeSet::from([&one, &three])),
            (&three, BTreeSet::new()),
        ]);
        assert_eq!(groups(&edges), [["a::one", "a::two"]]);
    }
}
