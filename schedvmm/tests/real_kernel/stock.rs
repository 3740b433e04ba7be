// SPDX-License-Identifier: Apache-2.0
//! A distribution's kernels, which have to load their drivers: the oldest, before these were built
//! in, and the newest.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::case::Case;
use crate::files::{self, Pack};
use crate::kernels;
use crate::lab::{Group, Preparation, TestKernel};
use crate::outcome::{Outcome, list, number, text};
use crate::user::measured;

/// Where their folders are, and what they are called in the host.
const STOCK: [(&str, &str); 2] =
    [("SCHEDVMM_TEST_STOCK_OLDEST", "oldest"), ("SCHEDVMM_TEST_STOCK_NEWEST", "newest")];
/// Modules that the host is given: all others would fill its memory.
const MODULES: [&str; 8] = [
    "virtio",
    "virtio_ring",
    "virtio_mmio",
    "virtio_console",
    "irqbypass",
    "ccp",
    "kvm",
    "kvm-amd",
];

/// Two machines boot in emulated virtualization.
const LIMIT_OF_NESTED: Duration = Duration::from_secs(360);

/// The main job on both, virtual machines in one of them, and modules that are not taken.
pub fn group() -> Group {
    let oldest = Case::new("oldest", run("oldest", "--duration 2s"), |outcome| {
        let result = measured(outcome);
        loaded(outcome, &result, &["virtio_ring", "virtio", "virtio_mmio", "virtio_console"]);
    });
    let newest = Case::new("newest", run("newest", "--duration 2s"), |outcome| {
        let result = measured(outcome);
        loaded(outcome, &result, &[]);
    });
    // Two machines in a machine, all over virtio-pci.
    let nested = "--nested --l2-count 2 --duration 3s";
    let nested = Case::new("nested", run("newest", nested), |outcome| {
        outcome.assert_status(0);
        let result = outcome.result_of("nested");
        loaded(outcome, &result, &["irqbypass", "kvm", "kvm_amd"]);
        // This one has virtio-pci built in, and virtio-mmio not at all.
        assert_eq!(text(&result["machine"], "transport"), "pci");
        for vm in list(&result, "vms") {
            assert_eq!((&vm["fault"], text(vm, "transport")), (&Value::Null, "pci"));
            assert!(number(vm, "gaps") > 0, "{vm}");
            let ran = list(vm, "threads").iter().all(|thread| number(thread, "run_ns") > 0);
            assert!(ran, "{vm}");
        }
        assert_eq!(list(&result, "vms").len(), 2);
    });
    // A file without its neighbours.
    let alone = "cp /stock/oldest/vmlinuz . && schedvmm --kernel vmlinuz --output r";
    let without = Case::new("without_modules", alone, |outcome| {
        outcome.assert_status(125);
        outcome.assert_says(&["CONFIG_VIRTIO_MMIO"]);
    });
    let nested = nested.within(LIMIT_OF_NESTED);
    let mut cases = vec![oldest, newest, nested, without, from_packages()];
    cases.extend(refused());
    Group::new("stock", TestKernel::V612, cases).prepared(|_| {
        let mut script = String::new();
        let mut files = Vec::new();
        for (variable, name) in STOCK {
            let folder = env::var_os(variable)
                .ok_or_else(|| format!("{variable} is not set; run `cargo xtask test`"))?;
            let found = kernel(Path::new(&folder), name)?;
            if name == "oldest" {
                files.extend(packages(&found)?);
                script = broken(&found)?;
            }
            files.extend(found);
        }
        Ok(Preparation { files, script, ..Preparation::default() })
    })
}

/// Image and modules in packages that lie together.
fn from_packages() -> Case {
    let packed =
        "schedvmm --kernel /packages/linux-image-* --threshold off --duration 2s --output r";
    Case::new("from_packages", packed, |outcome| {
        let result = measured(outcome);
        loaded(outcome, &result, &["virtio_ring", "virtio", "virtio_mmio", "virtio_console"]);
        let from = text(&result["machine"], "modules_from");
        assert!(from.starts_with("/packages/linux-modules-"), "{from}");
    })
}

/// The main job on one of them.
fn run(kernel: &str, options: &str) -> String {
    let kernel = format!("--kernel /stock/{kernel}/vmlinuz");
    format!("schedvmm {kernel} --threshold off --floor 50us --output r {options}")
}

/// A symbol that the broken module needs.
const SYMBOL: &str = "dma_map_page_attrs";

/// Copies of the oldest kernel's modules in which that of the broken one has other bytes, made by
/// [`broken`]; options; and what is said of it, by us and by the kernel.
const BROKEN: [(&str, &str, &[&str]); 4] = [
    // As the module was signed, and is no more.
    ("changed", "", &["or this was changed after it was signed"]),
    (
        "unsigned",
        "--append module.sig_enforce=1",
        &[
            "the kernel takes no module without a signature",
            "Loading of unsigned module is rejected",
        ],
    ),
    (
        "magic",
        "",
        &["it is of another kernel or another configuration", "version magic '6.1.0-", "should be"],
    ),
    (
        "symbol",
        "",
        &["the kernel has no symbol that it needs", "Unknown symbol Xma_map_page_attrs (err -2)"],
    ),
];

/// Modules that are not taken, by the kernel or already by us; and a kernel that dies before it
/// has its console.
fn refused() -> Vec<Case> {
    let mut cases: Vec<_> = BROKEN
        .iter()
        .map(|(name, options, words)| {
            let options = format!("--modules /tmp/{name} --duration 1s {options}");
            Case::new(format!("refused_{name}"), run("oldest", &options), move |outcome| {
                is_refused(outcome, words);
            })
        })
        .collect();
    let foreign = run("newest", "--modules /stock/oldest");
    cases.push(Case::new("of_another_kernel", foreign, |outcome| {
        outcome.assert_status(200);
        outcome.assert_says(&[
            "/stock/oldest",
            "is of kernel 6.1.0-",
            "give --modules of the same build",
        ]);
    }));
    // It says so on a screen in memory, or where no file tells that it can draw, by a 16550.
    let by_serial = "cp -r /stock/oldest bare && rm bare/config || exit 99
        schedvmm --kernel bare/vmlinuz --modules /tmp/changed --duration 1s --output r";
    cases.push(Case::new("refused_by_a_16550", by_serial, |outcome| {
        let result = is_refused(outcome, &[]);
        let given = text(&result["kernel"], "cmdline_given");
        assert!(given.contains("console=ttyS0 "), "{given}");
    }));
    let dies = run("oldest", "--append rdinit=/none --duration 1s");
    cases.push(Case::new("that_dies_before_its_console", dies, |outcome| {
        outcome.assert_status(125);
        let result = outcome.assert_verdict("untestable");
        let reason = text(&result, "reason");
        assert!(reason.contains("the kernel panicked before PID 1"), "{reason}");
        let given = text(&result["kernel"], "cmdline_given");
        assert!(given.contains("earlyprintk=vga ") && !given.contains("ttyS0"), "{given}");
        assert!(outcome.words().contains("Kernel panic - not syncing"), "{}", outcome.words());
    }));
    cases
}

/// The kernel refuses the broken module, and the reason has these words.
fn is_refused(outcome: &Outcome, words: &[&str]) -> Value {
    outcome.assert_status(125);
    let result = outcome.assert_verdict("untestable");
    let reason = text(&result, "reason");
    println!("     {reason}");
    for word in ["module virtio_ring cannot be loaded: "].iter().chain(words) {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    result
}

/// Shell words that make the folders of [`BROKEN`], by what a module of the kernel has where.
fn broken(kernel: &[(String, PathBuf)]) -> Result<String, String> {
    const MODULE: &str = "virtio_ring.ko";
    let of_kernel = kernel.iter().find(|(there, _)| there.ends_with(MODULE));
    let (there, here) = of_kernel.ok_or_else(|| format!("the kernel has no {MODULE}"))?;
    let module = kernels::read(here)?;
    // Without this the kernel finds no signature (include/linux/module_signature.h).
    let unsigned = kernels::without(&module, "~Module signature appended~");
    let magic = kernels::without(&module, "preempt mod_unload");
    let symbol = kernels::without(&module, SYMBOL);
    for found in [&unsigned, &magic, &symbol] {
        if found.is_empty() {
            return Err(format!("{} is not a signed module for 6.1", here.display()));
        }
    }
    let changes = [
        symbol.clone(),
        unsigned.clone(),
        [unsigned.clone(), magic].concat(),
        [unsigned, symbol].concat(),
    ];
    let mut script = String::new();
    for ((name, ..), changes) in BROKEN.iter().zip(changes) {
        let copy = format!("/tmp/{name}{}", there.trim_start_matches("/stock/oldest"));
        script += &format!("cp -r /stock/oldest /tmp/{name}\n");
        script += &kernels::patched(there, &copy, &changes);
    }
    Ok(script)
}

/// Files for the host: the image, and the modules that are needed.
fn kernel(folder: &Path, name: &str) -> Result<Vec<(String, PathBuf)>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (path, file) = (entry.path(), entry.file_name());
            let file = file.to_string_lossy();
            let kind = entry.file_type().map_err(failed)?;
            let there = path.strip_prefix(folder).map_err(|error| error.to_string())?;
            let there = format!("/stock/{name}/{}", there.display());
            if kind.is_dir() {
                folders.push(path);
            } else if file.starts_with("vmlinuz") {
                files.push((format!("/stock/{name}/vmlinuz"), path));
            } else if file.starts_with("config-") {
                files.push((format!("/stock/{name}/config"), path));
            } else if file == "modules.builtin" || is_needed(&file) {
                files.push((there, path));
            }
        }
    }
    Ok(files)
}

/// The same in two packages, as they might be downloaded: the image and what is built in, and the
/// modules.
fn packages(kernel: &[(String, PathBuf)]) -> Result<Vec<(String, PathBuf)>, String> {
    let mut parts = [Vec::new(), Vec::new()];
    let mut release = None;
    for (there, path) in kernel.iter().filter(|(there, _)| !there.ends_with("/config")) {
        let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let inside = there.split_once("/lib/modules/").map(|(_, inside)| inside);
        let Some(inside) = inside else {
            parts[0].push(("boot/vmlinuz".to_owned(), bytes));
            continue;
        };
        release = inside.split_once('/').map(|(release, _)| release.to_owned());
        let part = usize::from(inside.contains(".ko"));
        parts[part].push((format!("lib/modules/{inside}"), bytes));
    }
    let release = release.ok_or("the kernel has no modules")?;
    let mut packages = Vec::new();
    for (name, mut part) in ["image", "modules"].into_iter().zip(parts) {
        for (path, _) in part.iter_mut().filter(|(path, _)| path == "boot/vmlinuz") {
            *path = format!("boot/vmlinuz-{release}");
        }
        let part: Vec<_> = part.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
        let name = format!("linux-{name}-{release}_1-1_amd64.deb");
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        let written = fs::write(&path, files::deb(&part, Pack::Zstd));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
        packages.push((format!("/packages/{name}"), path));
    }
    Ok(packages)
}

fn is_needed(file: &str) -> bool {
    file.split_once(".ko").is_some_and(|(name, _)| MODULES.contains(&name))
}

/// These were loaded, in this order, and the console talked.
fn loaded(outcome: &Outcome, result: &Value, modules: &[&str]) {
    println!("     Linux {}", text(&result["kernel"], "release"));
    assert_eq!(result["machine"]["modules"], serde_json::json!(modules), "{}", outcome.words());
    let bytes = number(&result["machine"], "modules_bytes");
    println!("     {bytes} bytes of modules, boot {} ms", result["phases_ms"]["boot"]);
}
