// SPDX-License-Identifier: Apache-2.0
//! Lengths and parameters of functions, unsafe blocks, closures with names, fields of text.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{
    Expr, ExprUnsafe, Field, FnArg, GenericArgument, ImplItemFn, ItemFn, ItemImpl, ItemMod, Local,
    PathArguments, Signature, TraitItemFn, Type,
};

use super::source::{Source, is_test};
use super::{LONG_LINES, MAX_PARAMETERS};

/// A SAFETY argument ends so many lines before its block at most: a statement may begin above it.
const ARGUMENT_LINES: usize = 8;

/// The counts.
#[derive(Default)]
pub(super) struct Functions {
    pub unsafe_blocks: usize,
    pub unargued: Vec<String>,
    pub long: Vec<String>,
    pub wide: Vec<String>,
    /// Functions with a tuple for a parameter: one that stands for several.
    pub tuples: Vec<String>,
    pub named_closures: Vec<String>,
    /// Fields of `protocol` and `results` that are text: what has a fixed set of values is to be an
    /// enum.
    pub text_fields: Vec<String>,
}

impl Functions {
    /// Counts a file, too.
    pub(super) fn visit(&mut self, source: &Source) {
        let mut visitor = Visitor { counts: self, source, of_tests: false };
        for item in &source.items {
            visitor.visit_item(item);
        }
    }

    /// Counts what only tests have of a file.
    pub(super) fn visit_tests(&mut self, source: &Source) {
        let mut visitor = Visitor { counts: self, source, of_tests: true };
        for item in &source.test_items {
            visitor.visit_item(item);
        }
    }
}

struct Visitor<'a> {
    counts: &'a mut Functions,
    source: &'a Source,
    /// Else they are left out.
    of_tests: bool,
}

impl Visitor<'_> {
    fn function(&mut self, signature: &Signature, lines: usize) {
        let place =
            format!("{}:{} {}", self.source.path, signature.span().start().line, signature.ident);
        if lines > LONG_LINES {
            self.counts.long.push(format!("{place}: {lines} lines"));
        }
        let parameters: usize = signature.inputs.iter().map(width).sum();
        if parameters > MAX_PARAMETERS {
            self.counts.wide.push(format!("{place}: {parameters} parameters"));
        }
        if signature.inputs.iter().any(|parameter| width(parameter) > 1) {
            self.counts.tuples.push(place);
        }
    }

    fn is_left_out(&self, attributes: &[syn::Attribute]) -> bool {
        !self.of_tests && attributes.iter().any(is_test)
    }

    fn unsafe_code(&mut self, line: usize) {
        self.counts.unsafe_blocks += 1;
        let before = &self.source.lines[line.saturating_sub(ARGUMENT_LINES)..line];
        if !before.iter().any(|line| line.contains("SAFETY:")) {
            self.counts.unargued.push(format!("{}:{line}", self.source.path));
        }
    }
}

/// For how many a parameter counts; `self` is one.
fn width(parameter: &FnArg) -> usize {
    match parameter {
        FnArg::Receiver(_) => 1,
        FnArg::Typed(typed) => match &*typed.ty {
            Type::Tuple(tuple) => tuple.elems.len().max(1),
            _ => 1,
        },
    }
}

/// `String`, also in an Option, a Vec or such.
fn is_text(kind: &Type) -> bool {
    let Type::Path(path) = kind else { return false };
    path.path.segments.last().is_some_and(|last| match &last.arguments {
        PathArguments::AngleBracketed(inner) => inner
            .args
            .iter()
            .any(|argument| matches!(argument, GenericArgument::Type(kind) if is_text(kind))),
        _ => last.ident == "String",
    })
}

fn lines(spanned: &impl Spanned) -> usize {
    let span = spanned.span();
    span.end().line + 1 - span.start().line
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !self.is_left_out(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if self.is_left_out(&function.attrs) {
            return;
        }
        self.function(&function.sig, lines(&function.sig) + lines(&function.block) - 1);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if self.is_left_out(&function.attrs) {
            return;
        }
        self.function(&function.sig, lines(&function.sig) + lines(&function.block) - 1);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        self.function(&function.sig, lines(function));
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_impl(&mut self, implementation: &'ast ItemImpl) {
        if let Some(token) = &implementation.unsafety {
            self.unsafe_code(token.span.start().line);
        }
        visit::visit_item_impl(self, implementation);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast ExprUnsafe) {
        self.unsafe_code(block.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_local(&mut self, local: &'ast Local) {
        if let Some(init) = &local.init
            && matches!(&*init.expr, Expr::Closure(_))
        {
            let line = local.span().start().line;
            self.counts.named_closures.push(format!("{}:{line}", self.source.path));
        }
        visit::visit_local(self, local);
    }

    fn visit_field(&mut self, field: &'ast Field) {
        let name = field.ident.as_ref().filter(|_| is_text(&field.ty));
        if let Some(name) = name.filter(|_| self.source.is_of(&["protocol", "results"])) {
            let line = field.span().start().line;
            self.counts.text_fields.push(format!("{}:{line} {name}", self.source.path));
        }
        visit::visit_field(self, field);
    }
}
