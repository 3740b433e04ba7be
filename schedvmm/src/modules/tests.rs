// SPDX-License-Identifier: Apache-2.0
use std::io::Write;

use object::write::{Object, StandardSegment};
use object::{Architecture, BinaryFormat, Endianness, SectionKind};
use protocol::error::Owner;

use super::*;
use crate::owner::Owned;

const RELEASE: &str = "6.1.0-1-amd64";

/// A module that says this of itself.
fn module(depends: &str, release: &str) -> Vec<u8> {
    let mut file = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let segment = file.segment_name(StandardSegment::Data).to_vec();
    let section = file.add_section(segment, b".modinfo".to_vec(), SectionKind::ReadOnlyData);
    let info = format!("license=GPL\0depends={depends}\0vermagic={release} SMP mod_unload \0");
    file.append_section_data(section, info.as_bytes(), 1);
    let mut bytes = file.write().expect("an ELF file");
    // A signature lies behind the file itself.
    bytes.extend_from_slice(b"~Module signature appended~\n");
    bytes
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("packed");
    packer.finish().expect("packed")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut packer = liblzma::write::XzEncoder::new(Vec::new(), 1);
    packer.write_all(bytes).expect("packed");
    packer.finish().expect("packed")
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("packed")
}

/// A folder with these files in it.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    folder
}

fn names(folder: &Path, wanted: &[&str]) -> Result<Vec<String>, ModulesError> {
    let modules = Tree::open(folder)?.closure(wanted, Some(RELEASE))?;
    Ok(modules.names().into_iter().map(str::to_owned).collect())
}

#[test]
fn modules_come_after_what_they_need_however_they_are_packed() {
    let mmio = module("virtio_ring,virtio", RELEASE);
    let (ring, virtio) = (module("", RELEASE), module("virtio-ring", RELEASE));
    let files: [(&str, &[u8]); 5] = [
        ("kernel/drivers/virtio/virtio_mmio.ko.gz", &gz(&mmio)),
        ("kernel/drivers/virtio/virtio-ring.ko.xz", &xz(&ring)),
        ("kernel/drivers/virtio/virtio.ko.zst", &zst(&virtio)),
        ("kernel/drivers/char/virtio_console.ko", &module("virtio_ring,virtio", RELEASE)),
        ("kernel/drivers/other.ko", b"is looked at by nobody"),
    ];
    let folder = folder(&files);
    let found = names(folder.path(), &["virtio_mmio", CONSOLE]).expect("found");
    assert_eq!(found, ["virtio_ring", "virtio", "virtio_mmio", "virtio_console"]);
    // What is loaded is the file as it was built, with its signature.
    let modules = Tree::open(folder.path()).expect("a tree");
    let modules = modules.closure(["virtio_mmio"], None).expect("found");
    assert_eq!(modules.list[2], Module { name: "virtio_mmio".into(), bytes: mmio });
}

#[test]
fn what_is_built_in_or_not_there_is_not_loaded() {
    let builtin = b"kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_ring.ko\n";
    let mmio = module("virtio,virtio_ring", RELEASE);
    let folder = folder(&[("modules.builtin", builtin), ("kernel/virtio_mmio.ko", &mmio)]);
    assert_eq!(names(folder.path(), &["virtio_mmio", CONSOLE]).expect("found"), ["virtio_mmio"]);
    assert_eq!(names(folder.path(), &["virtio", "kvm_intel"]).expect("none"), [""; 0]);
}

#[test]
fn a_circle_ends() {
    let (a, b) = (module("b", RELEASE), module("a", RELEASE));
    let folder = folder(&[("a.ko", &a), ("b.ko", &b)]);
    assert_eq!(names(folder.path(), &["a"]).expect("it ends"), ["b", "a"]);
}

#[test]
fn roots_and_packages_have_their_modules_below() {
    let mmio = module("", RELEASE);
    let one = folder(&[("usr/lib/modules/6.1.0-1-amd64/kernel/virtio_mmio.ko", &mmio)]);
    assert_eq!(names(one.path(), &["virtio_mmio"]).expect("found"), ["virtio_mmio"]);
    std::os::unix::fs::symlink("usr/lib", one.path().join("lib")).expect("linked");
    assert_eq!(names(one.path(), &["virtio_mmio"]).expect("the same twice"), ["virtio_mmio"]);
    let two = folder(&[("lib/modules/6.1/kernel/a.ko", &mmio), ("lib/modules/6.2/a.ko", &mmio)]);
    let error = names(two.path(), &["a"]).expect_err("which?");
    assert_eq!(error.owner(), Owner::Request);
    let text = error.to_string();
    assert!(text.contains("lib/modules/6.1, ") && text.ends_with("lib/modules/6.2"), "{text}");
}

#[test]
fn a_kernel_has_its_modules_where_it_lies() {
    let mmio = module("", RELEASE);
    let found = |folder: &tempfile::TempDir, kernel: &str| {
        let tree = Tree::beside(&folder.path().join(kernel), RELEASE)?;
        Some(tree.closure(["virtio_mmio"], Some(RELEASE)).expect("closed").names().len())
    };
    let installed = "lib/modules/6.1.0-1-amd64/kernel/virtio_mmio.ko";
    let package = folder(&[("boot/vmlinuz", b""), (installed, &mmio)]);
    assert_eq!(found(&package, "boot/vmlinuz"), Some(1));
    let (at, installed) = ("usr/lib/modules/6.1.0-1-amd64/vmlinuz", format!("usr/{installed}"));
    let newer = folder(&[(at, b""), (&installed, &mmio)]);
    assert_eq!(found(&newer, at), Some(1));
    let (bzimage, release) = ("arch/x86/boot/bzImage", format!("{RELEASE}\n"));
    let tree = |release: &str| {
        folder(&[
            (bzimage, b""),
            ("include/config/kernel.release", release.as_bytes()),
            ("drivers/virtio/virtio_mmio.ko", &mmio),
        ])
    };
    assert_eq!(found(&tree(&release), bzimage), Some(1));
    // All may be built in, and nothing lists it.
    let bare = folder(&[(bzimage, b""), ("include/config/kernel.release", release.as_bytes())]);
    assert_eq!(found(&bare, bzimage), Some(0));
    // One that was built since is another kernel's.
    assert_eq!(found(&tree("6.2.0"), bzimage), None);
    assert_eq!(found(&package, "none"), None);
}

#[test]
fn what_cannot_be_loaded_is_named_with_its_owner() {
    let refused = |files: &[(&str, &[u8])], wanted: &str| {
        let folder = folder(files);
        let error = names(folder.path(), &[wanted]).expect_err("refused");
        (error.owner(), error.to_string())
    };
    let (owner, text) = refused(&[("README", b"nothing here")], "a");
    assert!(owner == Owner::Request && text.contains("there is no kernel module in "), "{text}");
    let (owner, text) = refused(&[("a.ko", &module("", "6.2.0"))], "a");
    assert!(owner == Owner::Request && text.contains("is of kernel 6.2.0, and"), "{text}");
    assert!(text.contains(RELEASE), "{text}");
    let (owner, text) = refused(&[("a.ko", &module("b", RELEASE))], "a");
    assert!(owner == Owner::Kernel && text.starts_with("module b, which a needs, is"), "{text}");
    let mut damaged = xz(&module("", RELEASE));
    damaged.truncate(damaged.len() / 2);
    let (owner, text) = refused(&[("a.ko.xz", &damaged)], "a");
    assert!(
        owner == Owner::Kernel && text.contains("a.ko.xz is damaged: it does not un"),
        "{text}"
    );
    let (_, text) = refused(&[("a.ko", b"\x7fELF and no more")], "a");
    assert!(text.contains("it is no ELF file"), "{text}");
    // No bomb is unpacked to its end.
    let (_, text) = refused(&[("a.ko.zst", &zst(&vec![0; 200 << 20]))], "a");
    assert!(text.contains("more than 128 MiB"), "{text}");
    let error = names(Path::new("/nonexistent"), &["a"]).expect_err("not there");
    assert!(error.owner() == Owner::Request && error.to_string().contains("/nonexistent"));
}

#[test]
fn an_initrd_has_them_in_order() {
    let (a, b) = (module("b", RELEASE), module("", RELEASE));
    let folder = folder(&[("a.ko", &a), ("b.ko", &b)]);
    let modules = Tree::open(folder.path()).expect("a tree").closure(["a"], None).expect("found");
    let laid = tempfile::tempdir().expect("tempdir");
    let mut archive = Archive::new();
    modules.add_to(&mut archive, "/modules").expect("added");
    let archive = archive.finish();
    for name in ["modules/0000-b.ko", "modules/0001-a.ko"] {
        assert!(memchr::memmem::find(&archive, name.as_bytes()).is_some(), "{name}");
        let from = if name.ends_with("b.ko") { &b } else { &a };
        fs::create_dir_all(laid.path().join("modules")).expect("made");
        fs::write(laid.path().join(name), from).expect("written");
    }
    let read = Modules::read(&laid.path().join("modules")).expect("read");
    assert_eq!(read.list, modules.list);
    assert!(read.note().is_none(), "whoever gave them has said so");
    let note = modules.note().expect("a note");
    assert!(note.starts_with("the kernel loads b, a first, from /"), "{note}");
    assert_eq!(Modules::read(&laid.path().join("none")).expect("none"), Modules::default());
}
