// SPDX-License-Identifier: Apache-2.0
//! Lengths and parameters of functions, unsafe blocks, closures with names.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{
    Expr, ExprUnsafe, FnArg, ImplItemFn, ItemFn, ItemImpl, ItemMod, Local, Signature, TraitItemFn,
    Type,
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
    pub named_closures: Vec<String>,
}

impl Functions {
    /// Counts a file, too.
    pub(super) fn visit(&mut self, source: &Source) {
        let mut visitor = Visitor { counts: self, source };
        for item in &source.items {
            visitor.visit_item(item);
        }
    }
}

struct Visitor<'a> {
    counts: &'a mut Functions,
    source: &'a Source,
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
    }

    fn unsafe_code(&mut self, line: usize) {
        self.counts.unsafe_blocks += 1;
        let before = &self.source.lines[line.saturating_sub(ARGUMENT_LINES)..line];
        if !before.iter().any(|line| line.contains("SAFETY:")) {
            self.counts.unargued.push(format!("{}:{line}", self.source.path));
        }
    }
}

/// For how many a parameter counts.
fn width(parameter: &FnArg) -> usize {
    match parameter {
        FnArg::Receiver(_) => 0,
        FnArg::Typed(typed) => match &*typed.ty {
            Type::Tuple(tuple) => tuple.elems.len().max(1),
            _ => 1,
        },
    }
}

fn lines(spanned: &impl Spanned) -> usize {
    let span = spanned.span();
    span.end().line + 1 - span.start().line
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !module.attrs.iter().any(is_test) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if function.attrs.iter().any(is_test) {
            return;
        }
        self.function(&function.sig, lines(&function.sig) + lines(&function.block) - 1);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if function.attrs.iter().any(is_test) {
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
}
