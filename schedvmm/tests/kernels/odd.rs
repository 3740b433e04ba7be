// SPDX-License-Identifier: Apache-2.0
//! What may lie beside a kernel and is no file of its kind: pipes that nobody writes into, files
//! without a byte in them, and sparse ones.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::calls::call;
use crate::files::{self, Pack, module};
use crate::made::{complete, kernel, kernel_of, status};

const RELEASE: &str = "6.12.1-made";

/// All cases.
pub const CASES: [(&str, fn()); 5] = [
    ("a_pipe_beside_a_kernel_is_not_waited_for", a_pipe_beside_a_kernel_is_not_waited_for),
    ("a_pipe_that_is_named_is_refused", a_pipe_that_is_named_is_refused),
    ("modules_without_a_byte_are_damaged", modules_without_a_byte_are_damaged),
    ("a_bad_module_of_one_vendor_is_a_note", a_bad_module_of_one_vendor_is_a_note),
    ("a_configuration_may_be_in_a_module", a_configuration_may_be_in_a_module),
];

/// Where the module is, from a root or a package on.
const MODULE: &str = "lib/modules/6.12.1-made/kernel/virtio_console.ko";
const LIST: &str = "lib/modules/6.12.1-made/modules.order";
const BUILTIN: &str = "lib/modules/6.12.1-made/modules.builtin";

/// A kernel that has to load its console, with its lists and its module.
fn put(root: &Path) {
    let config = complete(root).replace("CONFIG_VIRTIO_CONSOLE=y", "CONFIG_VIRTIO_CONSOLE=m");
    let files: [(&str, &[u8]); 5] = [
        ("vmlinux", &kernel_of(&config)),
        ("config", config.as_bytes()),
        (LIST, b"kernel/virtio_console.ko\n"),
        (BUILTIN, b"kernel/virtio_mmio.ko\n"),
        (MODULE, &module("", RELEASE)),
    ];
    write(root, &files);
}

fn write(root: &Path, files: &[(&str, &[u8])]) {
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
}

fn pipe(path: &Path) {
    // What is not there need not be removed.
    let _ = fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
}

fn a_pipe_beside_a_kernel_is_not_waited_for() {
    for (path, expected, told) in [
        ("config", 1, "config is left out: it is no regular file"),
        (LIST, 0, "virtio_console, from"),
        (BUILTIN, 0, "virtio_console, from"),
        (MODULE, 200, "virtio_console.ko cannot be read: it is no regular file"),
    ] {
        let dir = tempfile::tempdir().expect("tempdir");
        let dir = dir.path();
        put(dir);
        let output = call(dir, &["check", "vmlinux"]);
        assert_eq!(status(&output), Some(0), "{output:?}");
        pipe(&dir.join(path));
        let output = call(dir, &["check", "vmlinux"]);
        let text =
            String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat())
                .into_owned();
        assert_eq!(status(&output), Some(expected), "{path}: {text}");
        assert!(text.contains(told), "{path}: {text}");
        if path == LIST {
            // A list that is larger than memory is as good as none.
            fs::remove_file(dir.join(path)).expect("removed");
            File::create(dir.join(path)).and_then(|file| file.set_len(1 << 40)).expect("made");
            assert_eq!(status(&call(dir, &["check", "vmlinux"])), Some(0));
        }
    }
}

fn a_pipe_that_is_named_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    put(dir);
    pipe(&dir.join("pipe"));
    for words in [
        &["check", "pipe"][..],
        &["check", "vmlinux", "--modules", "pipe"],
        &["--kernel", "pipe"],
        &["--kernel", "vmlinux", "--load", "pipe"],
    ] {
        let output = call(dir, words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(status(&output), Some(200), "{words:?}: {text}");
        assert!(text.contains("regular file"), "{words:?}: {text}");
    }
    // Of a package that would belong to this one, too.
    let image = [(format!("boot/vmlinuz-{RELEASE}"), kernel())];
    let image: Vec<_> = image.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
    let name = format!("linux-image-{RELEASE}_1_amd64.deb");
    fs::write(dir.join(&name), files::deb(&image, Pack::Xz)).expect("written");
    let sibling = format!("linux-modules-{RELEASE}_1_amd64.deb");
    pipe(&dir.join(&sibling));
    let output = call(dir, &["check", &name]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_ne!(status(&output), None, "{text}");
    assert!(status(&output) != Some(200) || text.contains("regular file"), "{output:?}");
}

fn modules_without_a_byte_are_damaged() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    put(dir);
    fs::write(dir.join(MODULE), "").expect("written");
    let config = fs::read(dir.join("config")).expect("read");
    let list = b"kernel/virtio_console.ko\n";
    let files: [(&str, &[u8]); 5] = [
        ("boot/vmlinuz-6.12.1-made", &kernel()),
        ("boot/config-6.12.1-made", &config),
        (LIST, list),
        (BUILTIN, b"kernel/virtio_mmio.ko\n"),
        (MODULE, b""),
    ];
    fs::write(dir.join("image.deb"), files::deb(&files, Pack::Zstd)).expect("written");
    for named in ["vmlinux", "image.deb"] {
        let output = call(dir, &["check", named]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(status(&output), Some(125), "{named}: {output:?}");
        assert!(text.contains("virtio_console.ko is damaged: it is empty"), "{named}: {text}");
    }
}

fn a_bad_module_of_one_vendor_is_a_note() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let config = ["KVM", "KVM_INTEL", "KVM_AMD"].iter().fold(complete(dir), |config, name| {
        config.replace(&format!("CONFIG_{name}=y"), &format!("CONFIG_{name}=m"))
    });
    let folder = format!("lib/modules/{RELEASE}/kernel");
    let [kvm, intel, amd] = ["kvm", "kvm-intel", "kvm-amd"].map(|it| format!("{folder}/{it}.ko"));
    write(
        dir,
        &[
            ("vmlinux", &kernel_of(&config)),
            ("config", config.as_bytes()),
            (LIST, b"kernel/kvm.ko\nkernel/kvm-intel.ko\nkernel/kvm-amd.ko\n"),
            (BUILTIN, b"kernel/virtio_mmio.ko\nkernel/virtio_console.ko\n"),
            (&kvm, &module("", RELEASE)),
        ],
    );
    let good = module("kvm", RELEASE);
    for (bad, told) in [
        (Vec::new(), "is damaged: it is empty"),
        (module("kvm,ccp", RELEASE), "module ccp, which kvm_"),
    ] {
        for (its, others, needs) in
            [(&amd, &intel, ["AMD", "Intel"]), (&intel, &amd, ["Intel", "AMD"])]
        {
            write(dir, &[(its, &bad), (others, &good)]);
            let output = call(dir, &["check", "vmlinux", "--nested"]);
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(status(&output), Some(1), "{output:?}");
            let note = text.lines().find(|line| line.starts_with("note")).expect("a note");
            let [bad_one, good_one] = needs.map(|vendor| format!("KVM on {vendor}"));
            assert!(note.contains(&format!("{bad_one}: ")) && note.contains(told), "{text}");
            let row = |name: &str| {
                text.lines().find(|line| line.starts_with(name)).expect("a row").to_owned()
            };
            assert!(row(&bad_one).contains("its module is no good (see the note)"), "{text}");
            assert!(row(&good_one).contains("loaded"), "{text}");
        }
        // Of both it is an error.
        write(dir, &[(&amd, &bad), (&intel, &bad)]);
        let output = call(dir, &["check", "vmlinux", "--nested"]);
        assert!(status(&output) != Some(1) && output.stdout.is_empty(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(told), "{text}");
    }
}

fn a_configuration_may_be_in_a_module() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(complete(dir).as_bytes()).expect("packed");
    let packed = packed.finish().expect("packed");
    let holds =
        |release: &str| [&module("", release)[..], b"IKCFG_ST", &packed[..], b"IKCFG_ED"].concat();
    let configs = format!("lib/modules/{RELEASE}/kernel/kernel/configs.ko");
    write(
        dir,
        &[
            ("vmlinux", &kernel_of(&complete(dir))),
            (LIST, b"kernel/kernel/configs.ko\n"),
            (BUILTIN, b"kernel/virtio_mmio.ko\nkernel/virtio_console.ko\n"),
            (&configs, &holds(RELEASE)),
        ],
    );
    let output = call(dir, &["check", "vmlinux"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(status(&output), Some(0), "{output:?}");
    assert!(text.contains("configs.ko (IKCONFIG)\n"), "{text}");
    // Of another kernel it tells nothing.
    write(dir, &[(&configs, &holds("6.1.0-other"))]);
    let output = call(dir, &["check", "vmlinux"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("configuration not known"), "{text}");
    assert!(text.contains("no configuration is taken from a module: module "), "{text}");
    fs::remove_file(dir.join(&configs)).expect("removed");
    let output = call(dir, &["check", "vmlinux"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let told = "configuration   module          its module is not found: give --modules, else";
    assert!(text.contains(told), "{text}");
}
