// SPDX-License-Identifier: Apache-2.0
//! Transport of a kernel's devices, and the modules that it has to load for them.

use vmm::config::Transport;

use super::{CONSOLE, Lists, Modules, ModulesError, Tree, belied};

/// Transport of a kernel's devices.
#[derive(Debug, Default)]
pub struct Drivers {
    /// By which transport: the one that was asked for, or what the modules and their lists come to;
    /// `None` leaves it to what the kernel has built in.
    pub transport: Option<Transport>,
    /// Whether it is only listed as built in, and nobody has asked for it: the lists may be of
    /// another build.
    pub is_listed_only: bool,
    /// Modules to be loaded first.
    pub modules: Modules,
    /// Why another transport was not taken, of which a module is there and no good.
    pub passed_over: Option<String>,
}

impl Drivers {
    /// By the transport that is asked for, or else by the one that takes fewer modules; `vendor` is
    /// the module of KVM that is wanted beside.
    ///
    /// # Errors
    /// The modules that are needed cannot be had.
    pub fn choose(
        tree: Option<&Tree>,
        asked: Option<Transport>,
        vendor: Option<&str>,
        release: Option<&str>,
    ) -> Result<Self, ModulesError> {
        let Some(tree) = tree else {
            return Ok(Self { transport: asked, ..Self::default() });
        };
        // None can take fewer than one that is built in: others are not looked for.
        if let Some(transport) = Transport::ALL
            .into_iter()
            .filter(|one| asked.is_none_or(|it| it == *one))
            .find(|one| tree.is_builtin(one.module()))
            && tree.is_builtin(CONSOLE)
        {
            return Ok(Self {
                transport: Some(transport),
                is_listed_only: asked.is_none(),
                modules: closure(None, vendor, release, tree)?,
                passed_over: None,
            });
        }
        let (mut least, mut refused) = (None::<Self>, None);
        for transport in Transport::ALL.into_iter().filter(|one| asked.is_none_or(|it| it == *one))
        {
            let driver = transport.module();
            // One that cannot be loaded, as of an earlier build, is no matter beside another that
            // is built in.
            let modules = match closure(Some(driver), vendor, release, tree) {
                Ok(modules) => modules,
                Err(error) => {
                    refused.get_or_insert((transport, error));
                    continue;
                }
            };
            let is_there = tree.is_builtin(driver) || modules.has(driver);
            let before = least.as_ref().map_or(usize::MAX, |least| least.modules.count());
            if is_there && modules.count() < before {
                let is_listed_only = asked.is_none() && !modules.has(driver);
                let transport = Some(transport);
                least = Some(Self { transport, is_listed_only, modules, passed_over: None });
            }
        }
        match (least, refused) {
            (Some(least), refused) => {
                let passed_over = refused
                    .map(|(transport, error)| format!("virtio-{transport} is not taken: {error}"));
                Ok(Self { passed_over, ..least })
            }
            // Without a list of what is built in, what seems to be missing may be; the kernel
            // tells.
            (None, Some((_, ModulesError::Missing { .. }))) if !tree.lists().tell_builtin() => {
                Self::told_by_the_kernel(asked, vendor, release, tree)
            }
            (None, Some((_, refused))) => Err(refused),
            // Without a list of what is built in, the kernel itself tells.
            (None, None) => Self::told_by_the_kernel(asked, vendor, release, tree),
        }
    }

    fn told_by_the_kernel(
        transport: Option<Transport>,
        vendor: Option<&str>,
        release: Option<&str>,
        tree: &Tree,
    ) -> Result<Self, ModulesError> {
        let modules = closure(None, vendor, release, tree)?;
        Ok(Self { transport, modules, ..Self::default() })
    }

    /// The transport that the machine has to have.
    pub fn required(&self) -> Option<Transport> {
        self.transport.filter(|_| !self.is_listed_only)
    }

    /// What is to be said of lists by which another transport than the one that is taken would have
    /// been.
    pub fn stale(&self, taken: Transport, lists: Option<&Lists>) -> Option<String> {
        let listed = self.listed().filter(|listed| *listed != taken)?;
        let told = belied(&lists?.place, listed.module());
        Some(format!("{told}; the transport is {taken}"))
    }

    /// The one that it has if the kernel is of the same build as the lists.
    pub fn listed(&self) -> Option<Transport> {
        self.transport.filter(|_| self.is_listed_only)
    }
}

fn closure(
    driver: Option<&'static str>,
    vendor: Option<&str>,
    release: Option<&str>,
    tree: &Tree,
) -> Result<Modules, ModulesError> {
    let wanted = driver.into_iter().chain([CONSOLE]).chain(vendor);
    tree.closure(wanted, release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_is_no_good_does_not_matter_beside_a_driver_that_is_built_in() {
        let folder = tempfile::tempdir().expect("tempdir");
        let builtin = "kernel/virtio_pci.ko\nkernel/virtio_console.ko\n";
        std::fs::write(folder.path().join("modules.builtin"), builtin).expect("written");
        std::fs::write(folder.path().join("virtio_mmio.ko"), "of an earlier build").expect("it");
        let named = [folder.path().to_owned()];
        let tree = Tree::named(&named, Some("6.1"), None).expect("a tree");
        let choose = |asked| Drivers::choose(Some(&tree), asked, None, Some("6.1"));
        let drivers = choose(None).expect("over PCI");
        assert_eq!(drivers.transport, Some(Transport::Pci));
        assert_eq!((drivers.required(), drivers.listed()), (None, Some(Transport::Pci)));
        let drivers = choose(Some(Transport::Pci)).expect("over PCI");
        assert_eq!((drivers.required(), drivers.listed()), (Some(Transport::Pci), None));
        assert!(drivers.modules.is_empty() && !drivers.modules.bring_console());
        let error = choose(Some(Transport::Mmio)).expect_err("it is damaged").to_string();
        assert!(error.contains("virtio_mmio.ko is damaged"), "{error}");
    }

    #[test]
    fn a_module_that_is_no_good_is_told_beside_one_that_is_taken() {
        let folder = tempfile::tempdir().expect("tempdir");
        let module = crate::testing::made::module("", "6.1");
        for name in ["virtio_pci", "virtio_console"] {
            std::fs::write(folder.path().join(format!("{name}.ko")), &module).expect("written");
        }
        let named = [folder.path().to_owned()];
        let choose = || {
            let tree = Tree::named(&named, Some("6.1"), None).expect("a tree");
            Drivers::choose(Some(&tree), None, None, Some("6.1")).expect("over PCI")
        };
        assert_eq!(choose().passed_over, None);
        std::fs::write(folder.path().join("virtio_mmio.ko"), "damaged").expect("it");
        let drivers = choose();
        assert_eq!(drivers.transport, Some(Transport::Pci));
        let note = drivers.passed_over.expect("a note");
        assert!(note.starts_with("virtio-mmio is not taken: module "), "{note}");
        assert!(note.contains("virtio_mmio.ko is damaged"), "{note}");
    }

    #[test]
    fn lists_of_another_build_are_told() {
        let lists = Lists::new("lib/modules/6.1".into(), Some("x.ko"), None);
        let told = |transport, taken| {
            let drivers = Drivers { transport, is_listed_only: true, ..Drivers::default() };
            drivers.stale(taken, Some(&lists))
        };
        let note = told(Some(Transport::Mmio), Transport::Pci).expect("another");
        assert!(note.contains("lists in lib/modules/6.1 have virtio_mmio built in"), "{note}");
        assert!(note.ends_with("the transport is pci"), "{note}");
        assert_eq!(told(Some(Transport::Pci), Transport::Pci), None);
        assert_eq!(told(None, Transport::Pci), None);
    }
}
