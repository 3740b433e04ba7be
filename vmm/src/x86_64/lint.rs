// SPDX-License-Identifier: Apache-2.0
//! What an unpacked kernel tells about itself before it runs: its version, its
//! configuration where it carries one, and whether it can use our machine at all.

use std::collections::HashMap;
use std::io::Read;

use memchr::memmem;
use thiserror::Error;

/// Marks around the gzipped .config (kernel/configs.c).
const CONFIG_START: &[u8] = b"IKCFG_ST";
/// No .config is larger; a bound for hostile images.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Something the kernel lacks without which it cannot be tested.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("this kernel cannot run in the microVM: {what}; build it with {options}")]
pub struct LintError {
    /// What is missing.
    pub what: &'static str,
    /// Options that bring it.
    pub options: &'static str,
}

/// A kernel's own statements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lint {
    /// The banner, "Linux version …".
    pub banner: Option<String>,
    /// `CONFIG_X` to its value, from the image itself (CONFIG_IKCONFIG).
    pub config: Option<HashMap<String, String>>,
}

/// A need of the machine: a description, the options that meet it, and a text that is in
/// the image of every kernel that has it built in.
struct Need {
    what: &'static str,
    options: &'static str,
    trace: &'static [u8],
    /// What brings it where it is not built in.
    module: Option<&'static str>,
}

const NEEDS: [Need; 3] = [
    Need {
        what: "it has no driver for virtio-mmio devices",
        options: "CONFIG_VIRTIO_MMIO=y CONFIG_ACPI=y",
        // ACPI ID in drivers/virtio/virtio_mmio.c.
        trace: b"LNRO0005",
        module: Some("virtio_mmio"),
    },
    Need {
        what: "it has no virtio console",
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
    let Wanted { cpus, modules } = wanted;
    for need in &NEEDS {
        if need.module.is_some_and(|module| modules.contains(&module)) {
            continue;
        }
        let met = match &lint.config {
            Some(config) => need.options.split(' ').all(|option| {
                let (name, value) = option.split_once('=').unwrap_or((option, "y"));
                config.get(name).is_some_and(|is| is == value)
            }),
            None => memmem::find(kernel, need.trace).is_some(),
        };
        if !met {
            return Err(LintError { what: need.what, options: need.options });
        }
    }
    let smp = match &lint.config {
        Some(config) => config.contains_key("CONFIG_SMP"),
        None => lint.banner.as_ref().is_none_or(|banner| banner.contains(" SMP")),
    };
    if cpus > 1 && !smp {
        let what = "it runs on one CPU only";
        return Err(LintError { what, options: "CONFIG_SMP=y" });
    }
    Ok(())
}

/// How the banner begins.
pub(super) const BANNER: &str = "Linux version ";

/// The banner of an unpacked kernel.
pub(super) fn banner(kernel: &[u8]) -> Option<String> {
    // The first hit may be a format string with conversions in it; the banner has a digit.
    memmem::find_iter(kernel, BANNER).find_map(|at| {
        let text = &kernel[at..kernel.len().min(at + 512)];
        let end = text.iter().position(|byte| matches!(byte, b'\n' | 0))?;
        let text = std::str::from_utf8(&text[..end]).ok()?;
        text.as_bytes().get(BANNER.len()).is_some_and(u8::is_ascii_digit).then(|| text.to_owned())
    })
}

fn config(kernel: &[u8]) -> Option<HashMap<String, String>> {
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

    fn wanted<'a>(cpus: u32) -> Wanted<'a> {
        Wanted { cpus, modules: &[] }
    }

    const GOOD: &str = "CONFIG_SMP=y\nCONFIG_VIRTIO_MMIO=y\nCONFIG_ACPI=y\n\
        CONFIG_VIRTIO_CONSOLE=y\n# CONFIG_X is not set\nCONFIG_BLK_DEV_INITRD=y\n";

    #[test]
    fn banner_and_config_are_found() {
        let lint = read(&kernel_with_config(GOOD));
        assert_eq!(lint.banner.as_deref(), Some("Linux version 6.12.1 (x) #1 SMP"));
        assert_eq!(lint.config.expect("config").len(), 5);
        assert_eq!(read(b"nothing here"), Lint::default());
    }

    #[test]
    fn each_missing_option_is_named() {
        let kernel = kernel_with_config(GOOD);
        assert_eq!(check(&read(&kernel), &kernel, wanted(4)), Ok(()));
        for option in ["SMP", "VIRTIO_MMIO", "ACPI", "VIRTIO_CONSOLE", "BLK_DEV_INITRD"] {
            let line = format!("CONFIG_{option}=y");
            for bad in [String::new(), format!("CONFIG_{option}=m")] {
                if option == "SMP" && !bad.is_empty() {
                    continue;
                }
                let kernel = kernel_with_config(&GOOD.replace(&line, &bad));
                let error = check(&read(&kernel), &kernel, wanted(4)).expect_err(option);
                assert!(error.options.contains(&format!("CONFIG_{option}")), "{error}");
            }
        }
    }

    #[test]
    fn what_a_module_brings_need_not_be_built_in() {
        let modules = &["virtio", "virtio_mmio", "virtio_console"];
        let modular = GOOD.replace("CONFIG_VIRTIO_MMIO=y", "CONFIG_VIRTIO_MMIO=m");
        let kernel = kernel_with_config(&modular.replace("CONSOLE=y", "CONSOLE=m"));
        assert_eq!(check(&read(&kernel), &kernel, Wanted { cpus: 4, modules }), Ok(()));
        let error = check(&read(&kernel), &kernel, Wanted { cpus: 4, modules: &modules[..2] });
        assert!(error.expect_err("no console").options.contains("VIRTIO_CONSOLE"));
        let without_initrd = kernel_with_config(&GOOD.replace("CONFIG_BLK_DEV_INITRD=y", ""));
        let wanted = Wanted { cpus: 4, modules };
        check(&read(&without_initrd), &without_initrd, wanted).expect_err("nothing to load from");
    }

    #[test]
    fn without_a_config_the_texts_decide() {
        let all = b"LNRO0005 virtio_console Initramfs unpacking failed Linux version 6.1 SMP\n";
        assert_eq!(check(&read(all), all, wanted(4)), Ok(()));
        for text in ["LNRO0005", "virtio_console", "Initramfs", " SMP"] {
            let kernel = String::from_utf8_lossy(all).replace(text, "");
            let kernel = kernel.as_bytes();
            assert!(check(&read(kernel), kernel, wanted(4)).is_err(), "{text}");
        }
        let up = b"LNRO0005 virtio_console Initramfs unpacking failed Linux version 6.1 UP\n";
        assert_eq!(check(&read(up), up, wanted(1)), Ok(()));
    }
}
