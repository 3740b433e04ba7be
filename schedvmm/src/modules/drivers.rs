// SPDX-License-Identifier: Apache-2.0
//! Transport of a kernel's devices, and the modules that it has to load for them.

use vmm::config::Transport;

use super::{CONSOLE, Modules, ModulesError, Tree};

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
            });
        }
        let (mut least, mut refused): (Option<Self>, _) = (None, None);
        for transport in Transport::ALL.into_iter().filter(|one| asked.is_none_or(|it| it == *one))
        {
            let driver = transport.module();
            // One that cannot be loaded, as of an earlier build, is no matter beside another that
            // is built in.
            let modules = match closure(Some(driver), vendor, release, tree) {
                Ok(modules) => modules,
                Err(error) => {
                    refused.get_or_insert(error);
                    continue;
                }
            };
            let is_there = tree.is_builtin(driver) || modules.has(driver);
            let before = least.as_ref().map_or(usize::MAX, |least| least.modules.count());
            if is_there && modules.count() < before {
                let is_listed_only = asked.is_none() && !modules.has(driver);
                least = Some(Self { transport: Some(transport), is_listed_only, modules });
            }
        }
        match (least, refused) {
            (Some(least), _) => Ok(least),
            // Without a list of what is built in, what seems to be missing may be; the kernel
            // tells.
            (None, Some(ModulesError::Missing { .. })) if !tree.lists().tell_builtin() => {
                let modules = closure(None, vendor, release, tree)?;
                Ok(Self { transport: asked, modules, is_listed_only: false })
            }
            (None, Some(refused)) => Err(refused),
            // Without a list of what is built in, the kernel itself tells.
            (None, None) => {
                let modules = closure(None, vendor, release, tree)?;
                Ok(Self { transport: asked, modules, is_listed_only: false })
            }
        }
    }

    /// The transport that the machine has to have.
    pub fn required(&self) -> Option<Transport> {
        self.transport.filter(|_| !self.is_listed_only)
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
}
