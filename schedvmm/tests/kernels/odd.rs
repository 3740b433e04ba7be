// SPDX-License-Identifier: Apache-2.0
//! What may lie beside a kernel and is no file of its kind: pipes that nobody writes into, files
//! without a byte in them, and sparse ones.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::calls::call;
use crate::files::{self, Pack, module};
use crate::made::{complete, kernel, status};

const RELEASE: &str = "6.12.1-made";

/// All cases.
pub const CASES: [(&str, fn()); 3] = [
    ("a_pipe_beside_a_kernel_is_not_waited_for", a_pipe_beside_a_kernel_is_not_waited_for),
    ("a_pipe_that_is_named_is_refused", a_pipe_that_is_named_is_refused),
    ("modules_without_a_byte_are_damaged", modules_without_a_byte_are_damaged),
];

/// Where the module is, from a root or a package on.
const MODULE: &str = "lib/modules/6.12.1-made/kernel/virtio_console.ko";
const LIST: &str = "lib/modules/6.12.1-made/modules.order";
const BUILTIN: &str = "lib/modules/6.12.1-made/modules.builtin";

/// A kernel that has to load its console, with its lists and its module.
fn put(root: &Path) {
    let config = complete(root).replace("CONFIG_VIRTIO_CONSOLE=y", "CONFIG_VIRTIO_CONSOLE=m");
    let files: [(&str, &[u8]); 5] = [
        ("vmlinux", &kernel()),
        ("config", config.as_bytes()),
        (LIST, b"kernel/virtio_console.ko\n"),
        (BUILTIN, b"kernel/virtio_mmio.ko\n"),
        (MODULE, &module("", RELEASE)),
    ];
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
        ("config", 125, "config is left out: it is no regular file"),
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
