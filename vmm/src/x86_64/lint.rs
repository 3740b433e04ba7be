// SPDX-License-Identifier: Apache-2.0
//! What an unpacked kernel tells about itself before it runs: its version, its
//! configuration where it carries one, and whether it can use our machine at all.

use std::collections::HashMap;
use std::io::Read;

use memchr::memmem;
use thiserror::Error;

use crate::config::Transport;

/// Marks around the gzipped .config (kernel/configs.c).
const CONFIG_START: &[u8] = b"IKCFG_ST";
/// No .config is larger; a bound for hostile images.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Something the kernel lacks without which it cannot be tested.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("this kernel cannot run in the microVM: {what}; {before}build it with {options}")]
pub struct LintError {
    /// What is missing.
    pub what: &'static str,
    /// What to try before that: [`MODULES`], where a module may bring it, or nothing.
    pub before: &'static str,
    /// Options that bring it.
    pub options: &'static str,
}

/// What to do where something is not built in, and may be a module.
pub const MODULES: &str =
    "if that is a module, give --modules (--l2-modules for virtual machines), else ";

/// A kernel's own statements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lint {
    /// The banner, "Linux version …".
    pub banner: Option<String>,
    /// `CONFIG_X` to its value, from the image itself (CONFIG_IKCONFIG).
    pub config: Option<HashMap<String, String>>,
}

/// A need of the machine: what a kernel without it is, the options that meet it, and a text that is
/// in the image of every kernel that has it built in.
struct Need {
    what: &'static str,
    options: &'static str,
    trace: &'static [u8],
    /// What brings it where it is not built in.
    module: Option<&'static str>,
}

/// `Transport::Mmio`, where it is asked for.
const MMIO: Need = Need {
    what: "it has no driver for virtio-mmio devices built in, which --transport mmio takes",
    options: "CONFIG_VIRTIO_MMIO=y CONFIG_ACPI=y, or leave --transport out",
    // ACPI ID in drivers/virtio/virtio_mmio.c.
    trace: b"LNRO0005",
    module: Some("virtio_mmio"),
};

/// `Transport::Pci`, where it is asked for.
const PCI: Need = Need {
    what: "it has no driver for virtio-pci devices built in, which --transport pci takes",
    options: "CONFIG_PCI=y CONFIG_PCI_MSI=y CONFIG_VIRTIO_PCI=y CONFIG_ACPI=y, or leave \
              --transport out",
    // Name of the driver in drivers/virtio/virtio_pci_common.c; modules of a kernel that has it as
    // a module have other names of it, with an underscore.
    trace: b"virtio-pci\0",
    module: Some("virtio_pci"),
};

/// Neither of them.
const NO_TRANSPORT: LintError = LintError {
    before: "",
    what: "it has a driver neither for virtio-mmio nor for virtio-pci devices built in",
    options: "CONFIG_VIRTIO_MMIO=y CONFIG_ACPI=y, or with CONFIG_PCI=y CONFIG_PCI_MSI=y \
              CONFIG_VIRTIO_PCI=y CONFIG_ACPI=y",
};

const NEEDS: [Need; 2] = [
    Need {
        what: "it has no virtio console built in",
        options: "CONFIG_VIRTIO_CONSOLE=y",
        // Driver name in drivers/char/virtio_console.c.
        trace: b"virtio_console",
        module: Some("virtio_console"),
    },
    Need {
        what: "it cannot unpack an initramfs",
        options: "CONFIG_BLK_DEV_INITRD=y",
        // Message in init/initramfs.c.
        trace: b"Initramfs unpacking failed",
        module: None,
    },
];

/// What a machine wants of its kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// So many CPUs.
    pub cpus: u32,
    /// Names of the modules in its initrd, which need not be built in.
    pub modules: &'a [&'a str],
    /// The transport that it has to have, where it may not choose.
    pub transport: Option<Transport>,
}

impl Need {
    /// Whether `kernel`, which says `lint` of itself, has it built in, or it is among its modules.
    fn is_met(&self, lint: &Lint, kernel: &[u8], modules: &[&str]) -> bool {
        if self.module.is_some_and(|module| modules.contains(&module)) {
            return true;
        }
        match &lint.config {
            Some(config) => self
                .config_lines()
                .all(|(name, value)| config.get(name).is_some_and(|is| is == value)),
            None => memmem::find(kernel, self.trace).is_some(),
        }
    }

    fn config_lines(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let words = self.options.split([' ', ',']).filter(|word| word.starts_with("CONFIG_"));
        words.filter_map(|word| word.split_once('='))
    }

    fn is_not_met(&self, lint: &Lint) -> LintError {
        let before = if self.may_be_module(lint) { MODULES } else { "" };
        LintError { what: self.what, before, options: self.options }
    }

    /// Whether a module may bring it: its configuration says so, or nothing says that none does.
    fn may_be_module(&self, lint: &Lint) -> bool {
        let Some(module) = self.module else { return false };
        let option = format!("CONFIG_{}", module.to_ascii_uppercase());
        lint.config.as_ref().is_none_or(|config| config.get(&option).is_some_and(|is| is == "m"))
    }
}

fn driver(transport: Transport) -> &'static Need {
    match transport {
        Transport::Mmio => &MMIO,
        Transport::Pci => &PCI,
    }
}

fn no_transport(lint: &Lint) -> LintError {
    let may_be_module = Transport::ALL.into_iter().any(|one| driver(one).may_be_module(lint));
    LintError { before: if may_be_module { MODULES } else { "" }, ..NO_TRANSPORT }
}

/// Whether a text of this transport's driver is in `kernel`: in none that has it not built in.
pub fn may_have(one: Transport, kernel: &[u8]) -> bool {
    memmem::find(kernel, driver(one).trace).is_some()
}

/// The first transport that `kernel` has a driver for.
///
/// The ID that the driver for virtio-mmio binds to is in no kernel without it, whatever the kernel
/// tells beside that: most kernels need not have their configuration read, which takes longer.
pub fn choose(kernel: &[u8]) -> Option<Transport> {
    if memmem::find(kernel, MMIO.trace).is_some() {
        return Some(Transport::Mmio);
    }
    transport(&Lint { banner: None, config: config(kernel) }, kernel, &[])
}

/// The same of a kernel that says `lint` of itself.
fn transport(lint: &Lint, kernel: &[u8], modules: &[&str]) -> Option<Transport> {
    Transport::ALL.into_iter().find(|transport| driver(*transport).is_met(lint, kernel, modules))
}

/// Reads `kernel`, the loaded image.
pub fn read(kernel: &[u8]) -> Lint {
    Lint { banner: banner(kernel), config: config(kernel) }
}

/// Refuses a kernel that cannot work, before a minute is lost waiting for it.
///
/// Without a configuration in the image only the built-in drivers' own texts tell, and SMP
/// the banner.
///
/// # Errors
/// The first need that is not met.
pub fn check(lint: &Lint, kernel: &[u8], wanted: Wanted<'_>) -> Result<(), LintError> {
    let Wanted { cpus, modules, transport: asked } = wanted;
    match asked.map(driver) {
        Some(driver) if !driver.is_met(lint, kernel, modules) => {
            return Err(driver.is_not_met(lint));
        }
        None if transport(lint, kernel, modules).is_none() => return Err(no_transport(lint)),
        _ => {}
    }
    if let Some(need) = NEEDS.iter().find(|need| !need.is_met(lint, kernel, modules)) {
        return Err(need.is_not_met(lint));
    }
    let smp = match &lint.config {
        Some(config) => config.contains_key("CONFIG_SMP"),
        None => lint.banner.as_ref().is_none_or(|banner| banner.contains(" SMP")),
    };
    if cpus > 1 && !smp {
        let what = "it runs on one CPU only";
        return Err(LintError { what, before: "", options: "CONFIG_SMP=y" });
    }
    Ok(())
}

/// How the banner begins.
pub(super) const BANNER: &str = "Linux version ";

/// So many texts that begin like a banner are looked at; a kernel has a handful.
const MAX_BANNERS: usize = 256;

/// The banner of an unpacked kernel.
///
/// Others begin as it does: a format string, which has conversions where the banner has a digit, and
/// in some images the banner as it was before the number of the build was put in, `# SMP`.
pub(super) fn banner(kernel: &[u8]) -> Option<String> {
    let mut texts = memmem::find_iter(kernel, BANNER).take(MAX_BANNERS).filter_map(|at| {
        let text = &kernel[at..kernel.len().min(at + 512)];
        let end = text.iter().position(|byte| matches!(byte, b'\n' | 0))?;
        let text = std::str::from_utf8(&text[..end]).ok()?;
        text.as_bytes().get(BANNER.len()).is_some_and(u8::is_ascii_digit).then_some(text)
    });
    let first = texts.next()?;
    let numbered = if is_numbered(first) { None } else { texts.find(|text| is_numbered(text)) };
    Some(numbered.unwrap_or(first).to_owned())
}

/// Whether the number of a build is in it, as in `#1 SMP`.
fn is_numbered(banner: &str) -> bool {
    banner.as_bytes().windows(2).any(|pair| pair[0] == b'#' && pair[1].is_ascii_digit())
}

/// `CONFIG_X` to its value, of a kernel that carries its configuration, or of its module `configs`.
pub fn config(kernel: &[u8]) -> Option<HashMap<String, String>> {
    let at = memmem::find(kernel, CONFIG_START)? + CONFIG_START.len();
    let mut text = String::new();
    flate2::bufread::GzDecoder::new(&kernel[at..])
        .take(MAX_CONFIG_BYTES)
        .read_to_string(&mut text)
        .ok()?;
    Some(options(&text))
}

/// `CONFIG_X` to its value, from the text of a .config.
pub fn options(text: &str) -> HashMap<String, String> {
    let options = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        name.starts_with("CONFIG_").then(|| (name.to_owned(), value.to_owned()))
    });
    options.collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn kernel_with_config(config: &str) -> Vec<u8> {
        let mut kernel = b"\0\0Linux version %s (%s)\0Linux version 6.12.1 (x) #1 SMP\n\0".to_vec();
        kernel.extend_from_slice(CONFIG_START);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        gzip.write_all(config.as_bytes()).expect("gzip");
        kernel.extend_from_slice(&gzip.finish().expect("gzip"));
        kernel.extend_from_slice(b"IKCFG_ED");
        kernel
    }

    const GOOD: &str = "CONFIG_SMP=y\nCONFIG_VIRTIO_MMIO=y\nCONFIG_ACPI=y\n\
        CONFIG_VIRTIO_CONSOLE=y\n# CONFIG_X is not set\nCONFIG_BLK_DEV_INITRD=y\n";
    const PCI_LINES: &str = "CONFIG_PCI=y\nCONFIG_PCI_MSI=y\nCONFIG_VIRTIO_PCI=y\n";

    fn judge(kernel: &[u8], asked: Option<Transport>) -> Result<Option<Transport>, LintError> {
        let lint = read(kernel);
        assert_eq!(choose(kernel), transport(&lint, kernel, &[]));
        let wanted = Wanted { cpus: 4, transport: asked, modules: &[] };
        check(&lint, kernel, wanted).map(|()| choose(kernel))
    }

    #[test]
    fn banner_and_config_are_found() {
        let lint = read(&kernel_with_config(GOOD));
        assert_eq!(lint.banner.as_deref(), Some("Linux version 6.12.1 (x) #1 SMP"));
        assert_eq!(lint.config.expect("config").len(), 5);
        assert_eq!(read(b"nothing here"), Lint::default());
    }

    #[test]
    fn a_kernel_full_of_banners_is_searched_for_one_in_bounds() {
        let mut image = BANNER.repeat(MAX_BANNERS);
        image.push_str("Linux version 6.12.1 (x) #1 SMP\n");
        assert_eq!(banner(image.as_bytes()), None, "behind as many as are looked at");
        let image = &image[BANNER.len()..];
        assert!(banner(image.as_bytes()).is_some_and(|text| text.contains("6.12.1")));
    }

    #[test]
    fn of_several_banners_that_with_a_number_counts() {
        let template = "Linux version 6.12.1 (a@b) (gcc) # SMP PREEMPT_DYNAMIC";
        let whole = "Linux version 6.12.1 (a@b) (gcc) #7 SMP PREEMPT_DYNAMIC Tue";
        for (texts, found) in [
            (&["Linux version %s", template, whole][..], whole),
            (&[whole, template], whole),
            (&["Linux version 6.1.0-3#x (y) # SMP", whole], whole),
            (&[template], template),
        ] {
            let image = texts.join("\0") + "\0";
            assert_eq!(banner(image.as_bytes()).as_deref(), Some(found), "{texts:?}");
        }
    }

    #[test]
    fn what_may_be_a_module_is_told_so() {
        let texts = b"LNRO0005 Initramfs unpacking failed Linux version 6.1 #1 SMP\n";
        let may_be = |kernel: &[u8], asked| {
            let error = judge(kernel, asked).expect_err("nothing to speak through");
            error.to_string().contains("if that is a module, give --modules")
        };
        assert!(may_be(texts, None));
        assert!(may_be(b"virtio_console Initramfs unpacking failed #1 SMP\n", None));
        assert!(may_be(texts, Some(Transport::Pci)));
        assert!(!may_be(b"LNRO0005 virtio_console #1 SMP\n", None), "no initramfs by a module");
        for (value, told) in [("m", true), ("n", false)] {
            for option in ["VIRTIO_CONSOLE", "VIRTIO_MMIO"] {
                let line = format!("CONFIG_{option}=y");
                let config = GOOD.replace(&line, &format!("CONFIG_{option}={value}"));
                assert_eq!(may_be(&kernel_with_config(&config), None), told, "{option}={value}");
            }
        }
    }

    #[test]
    fn each_missing_option_is_named() {
        assert_eq!(judge(&kernel_with_config(GOOD), None), Ok(Some(Transport::Mmio)));
        for option in ["SMP", "VIRTIO_MMIO", "ACPI", "VIRTIO_CONSOLE", "BLK_DEV_INITRD"] {
            let line = format!("CONFIG_{option}=y");
            for bad in [String::new(), format!("CONFIG_{option}=m")] {
                if option == "SMP" && !bad.is_empty() {
                    continue;
                }
                let kernel = kernel_with_config(&GOOD.replace(&line, &bad));
                let error = judge(&kernel, None).expect_err(option);
                assert!(error.options.contains(&format!("CONFIG_{option}")), "{error}");
            }
        }
    }

    #[test]
    fn mmio_comes_first_and_what_is_asked_for_must_be_there() {
        let (mmio, pci) = (Some(Transport::Mmio), Some(Transport::Pci));
        let both = kernel_with_config(&format!("{GOOD}{PCI_LINES}"));
        for asked in [None, mmio, pci] {
            assert_eq!(judge(&both, asked), Ok(mmio));
        }
        let only_pci = GOOD.replace("VIRTIO_MMIO=y", "VIRTIO_MMIO=m") + PCI_LINES;
        assert_eq!(judge(&kernel_with_config(&only_pci), None), Ok(pci));
        let error = judge(&kernel_with_config(&only_pci), mmio).expect_err("a module");
        assert!(error.to_string().contains("--transport mmio"), "{error}");
        assert!(error.options.contains("CONFIG_VIRTIO_MMIO=y"), "{error}");
        for option in ["PCI", "PCI_MSI", "VIRTIO_PCI", "ACPI"] {
            let line = format!("CONFIG_{option}=y");
            let neither = kernel_with_config(&only_pci.replace(&line, ""));
            let error = judge(&neither, pci).expect_err(option);
            assert!(error.to_string().contains("--transport pci"), "{error}");
            let error = judge(&neither, None).expect_err(option);
            assert!(error.options.contains("VIRTIO_MMIO=y") && error.options.contains(&line));
        }
    }

    #[test]
    fn what_a_module_brings_need_not_be_built_in() {
        let modular = GOOD.replace("CONFIG_VIRTIO_MMIO=y", "CONFIG_VIRTIO_MMIO=m");
        let modular = modular.replace("CONSOLE=y", "CONSOLE=m");
        let judge = |config: &str, modules: &[&str]| {
            let kernel = kernel_with_config(config);
            check(&read(&kernel), &kernel, Wanted { cpus: 4, modules, transport: None })
        };
        let modules = ["virtio", "virtio_mmio", "virtio_console"];
        assert_eq!(judge(&modular, &modules), Ok(()));
        assert_eq!(judge(&modular, &["virtio_pci", "virtio_console"]), Ok(()));
        let error = judge(&modular, &modules[..2]).expect_err("no console");
        assert!(error.options.contains("VIRTIO_CONSOLE"), "{error}");
        judge(&GOOD.replace("CONFIG_BLK_DEV_INITRD=y", ""), &modules).expect_err("nothing to load");
    }

    #[test]
    fn without_a_config_the_texts_decide() {
        let pci = b"virtio-pci\0virtio_console Initramfs unpacking failed Linux version 6.1 SMP\n";
        assert_eq!(judge(pci, None), Ok(Some(Transport::Pci)));
        assert!(judge(pci, Some(Transport::Mmio)).is_err());
        let all = b"LNRO0005 virtio_console Initramfs unpacking failed Linux version 6.1 SMP\n";
        assert_eq!(judge(all, None), Ok(Some(Transport::Mmio)));
        for text in ["LNRO0005", "virtio_console", "Initramfs", " SMP"] {
            let kernel = String::from_utf8_lossy(all).replace(text, "");
            let kernel = kernel.as_bytes();
            assert!(judge(kernel, None).is_err(), "{text}");
        }
        let up = b"LNRO0005 virtio_console Initramfs unpacking failed Linux version 6.1 UP\n";
        assert_eq!(check(&read(up), up, Wanted { cpus: 1, ..Wanted::default() }), Ok(()));
    }
}
