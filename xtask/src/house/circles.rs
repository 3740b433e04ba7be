// SPDX-License-Identifier: Apache-2.0
//! Modules that import each other.
//!
//! What a module takes from the one that it is in is no step of a circle: `use super::…` is how a part
//! names what the parts of a module share. All other ways count, those from a module into its parts
//! among them, and so those through a module that its own part leads back to from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Macro, Path, UseTree};

use super::source::Source;

type Module = Vec<String>;

/// Groups of modules each of which reaches all others of it.
pub(super) fn find(sources: &[Source]) -> Vec<Vec<String>> {
    let modules: BTreeSet<Module> = sources.iter().map(|source| source.module.clone()).collect();
    groups(&edges(&modules, sources))
}

/// What each module takes from others, but not from those that it is in.
fn edges<'a>(
    modules: &'a BTreeSet<Module>,
    sources: &'a [Source],
) -> BTreeMap<&'a Module, BTreeSet<&'a Module>> {
    let mut edges: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for source in sources {
        let paths = named(source, modules);
        let targets = paths.iter().filter_map(|path| resolve(modules, path));
        let targets = targets.filter(|target| !source.module.starts_with(target));
        edges.entry(&source.module).or_default().extend(targets);
    }
    edges
}

/// Absolute paths that a file names, its imports in full.
pub(super) fn paths(source: &Source) -> Vec<String> {
    named(source, &BTreeSet::new()).into_iter().map(|path| path.join("::")).collect()
}

fn named(source: &Source, modules: &BTreeSet<Module>) -> Vec<Module> {
    let mut imports = Imports { modules, module: &source.module, paths: Vec::new() };
    for item in &source.items {
        imports.visit_item(item);
    }
    imports.paths
}

/// The module that a path leads into.
fn resolve<'a>(modules: &'a BTreeSet<Module>, path: &[String]) -> Option<&'a Module> {
    (2..=path.len()).rev().find_map(|length| modules.get(&path[..length].to_vec()))
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
    modules: &'a BTreeSet<Module>,
    module: &'a Module,
    paths: Vec<Module>,
}

impl Imports<'_> {
    fn add(&mut self, path: &[String]) {
        let mut base = match path.first().map(String::as_str) {
            Some("crate") => self.module[..1].to_vec(),
            Some("self") => self.module.clone(),
            Some("super") => self.module[..self.module.len().saturating_sub(1)].to_vec(),
            Some(name) => {
                let part = [self.module, &[name.to_owned()][..]].concat();
                if !self.modules.contains(&part) {
                    return self.paths.push(path.to_vec());
                }
                part
            }
            None => return,
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

    /// Paths in what a macro is given, or is made of; syn leaves that unread.
    fn tokens(&mut self, tokens: &TokenStream) {
        let mut path = Module::new();
        let mut colons = 0;
        for token in tokens.clone() {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.end_of(&mut path);
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    self.end_of(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(&group.stream());
                    }
                }
            }
        }
        self.end_of(&mut path);
    }

    fn end_of(&mut self, path: &mut Module) {
        let path = mem::take(path);
        if path.len() > 1 {
            self.add(&path);
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

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.tokens(&call.tokens);
        visit::visit_macro(self, call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Circles of files of a crate `a`.
    fn circles(files: &[(&[&str], &str)]) -> Vec<Vec<String>> {
        let sources: Vec<_> = files
            .iter()
            .map(|(module, text)| {
                let module = ["a"].iter().chain(*module).map(|&name| name.to_owned()).collect();
                Source::of_text(module, text)
            })
            .collect();
        find(&sources)
    }

    #[test]
    fn modules_that_reach_each_other_are_a_group() {
        let found = circles(&[
            (&["one"], "use crate::two::Two;"),
            (&["two"], "use super::one; use super::three::Three;"),
            (&["three"], ""),
        ]);
        assert_eq!(found, [["a::one", "a::two"]]);
    }

    #[test]
    fn what_a_part_takes_from_its_whole_is_no_circle() {
        let found = circles(&[
            (&[], "mod one; use crate::one::One;"),
            (&["one"], "use crate::one::part::Part;"),
            (&["one", "part"], "use super::Shared; use crate::Root;"),
        ]);
        assert_eq!(found, Vec::<Vec<String>>::new());
    }

    #[test]
    fn a_way_back_into_the_whole_is_one() {
        let found = circles(&[
            (&["one"], "use self::part::Part;"),
            (&["one", "part"], "use crate::two::Two;"),
            (&["two"], "use crate::one::Shared;"),
        ]);
        assert_eq!(found, [["a::one", "a::one::part", "a::two"]]);
    }

    #[test]
    fn a_part_is_one_without_self_before_its_name() {
        let found = circles(&[
            (&["one"], "mod part; pub use part::Part;"),
            (&["one", "part"], "use crate::two::Two;"),
            (&["two"], "use crate::one::Shared;"),
        ]);
        assert_eq!(found, [["a::one", "a::one::part", "a::two"]]);
    }

    #[test]
    fn what_a_macro_is_given_is_read() {
        let found = circles(&[
            (&["one"], "fn f() { println!(\"{}\", [crate::two::MOST]); }"),
            (&["two"], "macro_rules! m { ($x:ident) => { $crate::one::f($x::y) }; }"),
        ]);
        assert_eq!(found, [["a::one", "a::two"]]);
    }
}
