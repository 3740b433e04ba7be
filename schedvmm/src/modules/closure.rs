// SPDX-License-Identifier: Apache-2.0
//! The modules that a machine needs, with those that these need, in the order in which they load.
//!
//! Which module needs which is read from the modules themselves: packages have no modules.dep,
//! which depmod makes where they are installed.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{self, Described};
use super::{Module, Modules, ModulesError, Tree};

impl Tree {
    /// Of these modules those that are not built in, each after the ones it needs. One that is not
    /// there at all is left out: whether the kernel can do without it is not for its modules to
    /// tell.
    ///
    /// # Errors
    /// There are no modules at all where they were named; one of them, or one that it needs, is
    /// damaged or missing, or of another kernel than `release`.
    pub fn closure<'a>(
        &self,
        wanted: impl IntoIterator<Item = &'a str>,
        release: Option<&str>,
    ) -> Result<Modules, ModulesError> {
        let wanted: Vec<_> = wanted.into_iter().filter(|name| !self.is_builtin(name)).collect();
        if wanted.is_empty() {
            // A build tree of 200,000 files is not looked through for nothing.
            return Ok(Modules::default());
        }
        let mut places = Vec::new();
        let gathered = self.gather(&wanted, release, &mut places)?;
        let is_bare = gathered.is_empty() && self.is_named && !self.lists().tell_builtin();
        if is_bare && self.is_empty()? {
            return Err(ModulesError::None(self.place()));
        }
        Ok(Modules { list: in_order(&wanted, gathered), from: Some(places.join(", ")) })
    }

    /// All of these that are there, and all that they need: those of one step in one go, since a
    /// package has to be read from its beginning. `places` gets where they were.
    fn gather(
        &self,
        wanted: &[&str],
        release: Option<&str>,
        places: &mut Vec<String>,
    ) -> Result<BTreeMap<String, Described>, ModulesError> {
        let mut gathered: BTreeMap<String, Described> = BTreeMap::new();
        // By whom each is needed.
        let mut step: BTreeMap<String, Option<String>> =
            wanted.iter().map(|name| ((*name).to_owned(), None)).collect();
        while !step.is_empty() {
            let mut files = self.files(&step.keys().cloned().collect())?;
            let mut next = BTreeMap::new();
            for (needed, by) in step {
                let Some(found) = files.remove(&needed) else {
                    let Some(by) = by else { continue };
                    return Err(ModulesError::Missing { needed, by, place: self.place() });
                };
                let module = found.file;
                let described = file::describe(&needed, &module, found.bytes)?;
                described.check(release, &module)?;
                let depends = described.depends.iter().filter(|name| !self.is_builtin(name));
                next.extend(depends.map(|name| (name.clone(), Some(needed.clone()))));
                gathered.insert(needed, described);
                if !places.contains(&found.place) {
                    places.push(found.place);
                }
            }
            next.retain(|name, _| !gathered.contains_key(name));
            step = next;
        }
        Ok(gathered)
    }
}

/// What is left to do.
enum Step {
    /// All that it needs goes before it.
    Visit(String),
    /// All that it needs is in order.
    Done(Module),
}

/// Each after all that it needs. In a circle, which depmod refuses, the kernel says what is
/// missing.
fn in_order(wanted: &[&str], mut gathered: BTreeMap<String, Described>) -> Vec<Module> {
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    // Each is put off until those it needs are in order: a stack of its own, since a chain may be
    // as long as the files make it.
    let wanted = wanted.iter().rev().map(|name| Step::Visit((*name).to_owned()));
    let mut stack: Vec<_> = wanted.collect();
    while let Some(step) = stack.pop() {
        let name = match step {
            Step::Done(module) => {
                order.push(module);
                continue;
            }
            Step::Visit(name) => name,
        };
        if !seen.insert(name.clone()) {
            continue;
        }
        // What is built in was not gathered.
        let Some(Described { module, depends, .. }) = gathered.remove(&name) else { continue };
        stack.push(Step::Done(module));
        stack.extend(depends.into_iter().map(Step::Visit));
    }
    order
}
