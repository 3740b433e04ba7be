// SPDX-License-Identifier: Apache-2.0
//! The errors of the product, as its source has them: their texts, and whose they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::TokenTree;
use syn::parse::ParseStream;
use syn::visit::{self, Visit};
use syn::{
    Attribute, Expr, ExprCall, ExprMacro, ExprPath, Fields, ImplItem, ImplItemFn, Item, ItemImpl,
    ItemMod, Lit, LitStr, Local, Pat, Type,
};

/// Exit statuses that an error may end with; several where its cause decides.
pub type Statuses = BTreeSet<u8>;

/// Errors by text, with `…` for what differs.
#[derive(Debug, Default)]
pub struct Errors {
    /// Where each text stands, and its statuses.
    pub texts: BTreeMap<String, (String, Statuses)>,
    /// Types that have texts, and no owner.
    pub without_owner: BTreeSet<String>,
}

/// Reads these folders of source.
pub fn errors(folders: &[PathBuf]) -> Errors {
    let mut files = Vec::new();
    folders.iter().for_each(|folder| add_files(folder, &mut files));
    let parsed: Vec<_> = files.iter().map(|path| (path, parse(path))).collect();
    let mut owners = Owners::default();
    for (path, file) in &parsed {
        if path.ends_with("owner.rs") {
            file.items.iter().for_each(|item| owners.item(item));
        }
    }
    let mut errors = Errors::default();
    for (path, file) in &parsed {
        let place = path.display().to_string();
        add_texts(&file.items, &place, &owners, &mut errors);
        let mut calls = Calls::default();
        calls.visit_file(file);
        for (text, status) in calls.found {
            let entry = errors.texts.entry(text).or_insert_with(|| (place.clone(), [].into()));
            entry.1.insert(status);
        }
    }
    errors
}

fn add_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).expect("a folder of the repository");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "tests" {
            add_files(&path, files);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

/// The text of all Rust files below a folder, tests included.
pub fn text_of_all(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("a folder of the repository");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    let texts = paths.iter().map(|path| match path.extension() {
        _ if path.is_dir() => text_of_all(path),
        Some(extension) if extension == "rs" => fs::read_to_string(path).expect("readable"),
        _ => String::new(),
    });
    texts.collect()
}

fn parse(path: &Path) -> syn::File {
    let text = fs::read_to_string(path).expect("a file of the repository");
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whose errors are, by type and variant; "" for all variants.
#[derive(Default)]
struct Owners(HashMap<String, HashMap<String, Statuses>>);

impl Owners {
    fn item(&mut self, item: &Item) {
        let Item::Impl(ItemImpl { self_ty, items, .. }) = item else { return };
        let Type::Path(path) = &**self_ty else { return };
        let Some(name) = path.path.segments.last().map(|segment| segment.ident.to_string()) else {
            return;
        };
        for item in items {
            let ImplItem::Fn(ImplItemFn { sig, block, .. }) = item else { continue };
            if sig.ident != "owner" || sig.inputs.len() != 1 {
                continue;
            }
            let mut arms = Arms::default();
            arms.visit_block(block);
            if arms.variants.is_empty() {
                arms.variants.insert(String::new(), statuses(|found| found.visit_block(block)));
            }
            // One that hands on to a function of the same name tells nothing.
            if arms.variants.values().any(|statuses| !statuses.is_empty()) {
                self.0.entry(name.clone()).or_default().extend(arms.variants);
            }
        }
    }

    fn of(&self, name: &str, variant: &str) -> Option<&Statuses> {
        let of_type = self.0.get(name)?;
        of_type.get(variant).or_else(|| of_type.get("")).or_else(|| of_type.get("_"))
    }
}

/// The arms of a match over variants.
#[derive(Default)]
struct Arms {
    variants: HashMap<String, Statuses>,
}

impl<'ast> Visit<'ast> for Arms {
    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let found = statuses(|found| found.visit_expr(&arm.body));
        let mut names = Vec::new();
        variants(&arm.pat, &mut names);
        for name in names {
            self.variants.entry(name).or_default().extend(&found);
        }
    }
}

fn variants(pattern: &Pat, names: &mut Vec<String>) {
    let mut name = |path: &syn::Path| {
        names.extend(path.segments.last().map(|segment| segment.ident.to_string()));
    };
    match pattern {
        Pat::Or(or) => or.cases.iter().for_each(|case| variants(case, names)),
        Pat::Struct(pattern) => name(&pattern.path),
        Pat::TupleStruct(pattern) => name(&pattern.path),
        Pat::Path(pattern) => name(&pattern.path),
        Pat::Wild(_) => names.push("_".into()),
        _ => {}
    }
}

/// Statuses of the owners that an expression names.
#[derive(Default)]
struct Found(Statuses);

fn statuses(visit: impl FnOnce(&mut Found)) -> Statuses {
    let mut found = Found::default();
    visit(&mut found);
    found.0
}

/// The exit status of an owner, as `ExitStatus` has it.
fn status(owner: &str) -> Option<u8> {
    match owner {
        "Kernel" | "kernel" => Some(125),
        "Request" | "request" | "usage" | "fault" => Some(200),
        "Host" | "host" => Some(201),
        "Internal" | "internal" => Some(202),
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Found {
    fn visit_expr_path(&mut self, path: &'ast ExprPath) {
        let segments: Vec<_> = path.path.segments.iter().map(|it| it.ident.to_string()).collect();
        match segments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [.., "Owner", owner] => self.0.extend(status(owner)),
            ["of_file"] => self.0.extend([200, 201]),
            // The error itself knows: in a guest the kernel, elsewhere the host.
            ["owner"] => self.0.extend([125, 200, 201, 202]),
            _ => {}
        }
    }
}

fn add_texts(items: &[Item], place: &str, owners: &Owners, errors: &mut Errors) {
    for item in items {
        let mut add = |name: &str, variant: &str, attributes: &[Attribute]| {
            let Some(text) = text(attributes) else { return };
            // What it hands on has texts of its own.
            if text == "…" {
                return;
            }
            match owners.of(name, variant) {
                // It stands before the text of its cause, whose owner decides.
                Some(statuses) if statuses.is_empty() => {}
                Some(statuses) => {
                    let new = || (place.to_owned(), Statuses::new());
                    errors.texts.entry(text).or_insert_with(new).1.extend(statuses);
                }
                None => {
                    errors.without_owner.insert(name.to_owned());
                }
            }
        };
        match item {
            Item::Enum(item) => {
                for variant in &item.variants {
                    add(&item.ident.to_string(), &variant.ident.to_string(), &variant.attrs);
                }
            }
            Item::Struct(item) if !matches!(item.fields, Fields::Unit) => {
                add(&item.ident.to_string(), "", &item.attrs);
            }
            Item::Mod(ItemMod { content: Some((_, items)), .. }) => {
                add_texts(items, place, owners, errors);
            }
            _ => {}
        }
    }
}

/// The text of `#[error("…")]`.
fn text(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.path().is_ident("error"))?;
    let first = |input: ParseStream<'_>| {
        let text = input.parse::<LitStr>();
        while !input.is_empty() {
            input.parse::<TokenTree>()?;
        }
        Ok(text.ok())
    };
    attribute.parse_args_with(first).ok().flatten().map(|text| pattern(&text.value()))
}

/// A format string with `…` for what is put in.
pub fn pattern(format: &str) -> String {
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let doubled = rest[at..].starts_with("{{") || rest[at..].starts_with("}}");
        if doubled {
            text.push_str(&rest[at..=at]);
            rest = &rest[at + 2..];
        } else {
            text.push('…');
            let end = rest[at..].find('}').map_or(rest.len(), |end| at + end + 1);
            rest = &rest[end..];
        }
    }
    text.push_str(rest);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Calls of `Failure::request` and its like, with the text where it stands in the call, or in a
/// `let` of the same function before.
#[derive(Default)]
struct Calls {
    found: Vec<(String, u8)>,
    named: HashMap<String, String>,
}

impl<'ast> Visit<'ast> for Calls {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if module.ident != "tests" {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_local(&mut self, local: &'ast Local) {
        visit::visit_local(self, local);
        if let (Pat::Ident(name), Some(init)) = (&local.pat, &local.init)
            && let Some(text) = self.text(&init.expr)
        {
            self.named.insert(name.ident.to_string(), text);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        visit::visit_expr_call(self, call);
        let Expr::Path(ExprPath { path, .. }) = &*call.func else { return };
        let segments: Vec<_> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        if let ["Failure", "new"] = segments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            let owners = call.args.first().map(|owner| statuses(|found| found.visit_expr(owner)));
            let text = call.args.get(1).and_then(|argument| self.text(argument));
            for status in owners.filter(|_| text.is_some()).unwrap_or_default() {
                self.found.push((text.clone().unwrap_or_default(), status));
            }
            return;
        }
        let owner = match segments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["Failure", owner] => owner,
            [closure @ ("usage" | "fault" | "host")] => closure,
            _ => return,
        };
        if let (Some(status), Some(argument)) = (status(owner), call.args.first())
            && let Some(text) = self.text(argument)
        {
            self.found.push((text, status));
        }
    }
}

impl Calls {
    fn text(&self, argument: &Expr) -> Option<String> {
        let text = match argument {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => pattern(&text.value()),
                _ => return None,
            },
            Expr::Macro(ExprMacro { mac, .. }) if mac.path.is_ident("format") => {
                let first = |input: ParseStream<'_>| {
                    let text: LitStr = input.parse()?;
                    while !input.is_empty() {
                        input.parse::<TokenTree>()?;
                    }
                    Ok(text.value())
                };
                pattern(&mac.parse_body_with(first).ok()?)
            }
            Expr::MethodCall(call) if call.method == "into" => return self.text(&call.receiver),
            Expr::Path(path) => {
                return path
                    .path
                    .get_ident()
                    .and_then(|name| self.named.get(&name.to_string()).cloned());
            }
            _ => return None,
        };
        (text != "…").then_some(text)
    }
}
