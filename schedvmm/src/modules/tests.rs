// SPDX-License-Identifier: Apache-2.0
//! Modules in folders and in packages.

use protocol::error::Owner;

use super::*;
use crate::kernel_files::{BUILTIN, ORDER};
use crate::package::Package;
use crate::status::Owned;
use crate::testing::made::{self, Pack, module};

const RELEASE: &str = "6.1.0-1-amd64";

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
    let tree = Tree::named(&[folder.to_owned()], Some(RELEASE), None)?;
    let modules = tree.closure(wanted.iter().copied(), Some(RELEASE))?;
    Ok(modules.names().into_iter().map(str::to_owned).collect())
}

#[test]
fn modules_come_after_what_they_need_however_they_are_packed() {
    let mmio = module("virtio_ring,virtio", RELEASE);
    let (ring, virtio) = (module("", RELEASE), module("virtio-ring", RELEASE));
    let files: [(&str, &[u8]); 5] = [
        ("kernel/drivers/virtio/virtio_mmio.ko.gz", &Pack::Gzip.pack(mmio.clone())),
        ("kernel/drivers/virtio/virtio-ring.ko.xz", &Pack::Xz.pack(ring)),
        ("kernel/drivers/virtio/virtio.ko.zst", &Pack::Zstd.pack(virtio)),
        ("kernel/drivers/char/virtio_console.ko", &module("virtio_ring,virtio", RELEASE)),
        ("kernel/drivers/other.ko", b"is looked at by nobody"),
    ];
    let folder = folder(&files);
    let found = names(folder.path(), &["virtio_mmio", CONSOLE]).expect("found");
    assert_eq!(found, ["virtio_ring", "virtio", "virtio_mmio", "virtio_console"]);
    // What is loaded is the file as it was built, with its signature.
    let modules = Tree::named(&[folder.path().to_owned()], None, None).expect("a tree");
    let modules = modules.closure(["virtio_mmio"], None).expect("found");
    assert_eq!(modules.list[2], Module::new("virtio_mmio".into(), mmio));
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
    let tree = Tree::named(&[two.path().to_owned()], None, None);
    let error = tree.expect_err("which?");
    assert_eq!(error.owner(), Owner::Request);
    let text = error.to_string();
    assert!(text.contains("lib/modules/6.1, ") && text.ends_with("lib/modules/6.2"), "{text}");
}

/// However it is named: its lists would be believed where none of its modules is loaded.
#[test]
fn a_folder_of_another_kernel_is_refused() {
    let mmio = module("", RELEASE);
    let (theirs, ours) = ("usr/lib/modules/7.3-amd64", format!("lib/modules/{RELEASE}"));
    let builtin = b"kernel/virtio_mmio.ko\nkernel/virtio_console.ko\n";
    let root = folder(&[
        (&format!("{theirs}/modules.builtin"), builtin),
        ("tree/modules.builtin", builtin),
        ("tree/include/config/kernel.release", b"7.3-amd64\n"),
        (&format!("both/{theirs}/modules.builtin"), builtin),
        (&format!("both/{ours}/virtio_mmio.ko"), &mmio),
        (&format!("two/{theirs}/modules.builtin"), builtin),
        ("two/lib/modules/7.2-amd64/modules.builtin", builtin),
    ]);
    let named = |path: &str| Tree::named(&[root.path().join(path)], Some(RELEASE), None);
    for (path, told) in [
        ("", "is of kernel 7.3-amd64, and the kernel to be booted is 6.1.0-1-amd64"),
        (theirs, "is of kernel 7.3-amd64, and"),
        ("tree", "is of kernel 7.3-amd64, and"),
        ("two", "is of kernel 7.2-amd64, 7.3-amd64, and"),
    ] {
        let error = named(path).expect_err(path);
        assert_eq!(error.owner(), Owner::Request, "{path}");
        assert!(error.to_string().contains(told), "{path}: {error}");
    }
    assert!(named("both").is_ok() && named(&format!("both/{ours}")).is_ok());
    // Where the kernel does not tell its release, the user knows.
    assert!(Tree::named(&[root.path().join(theirs)], None, None).is_ok());
}

#[test]
fn a_kernel_has_its_modules_where_it_lies() {
    let mmio = module("", RELEASE);
    let found = |folder: &tempfile::TempDir, kernel: &str| {
        let none = Path::new("/nonexistent");
        let tree = Tree::beside(none, &folder.path().join(kernel), Some(RELEASE))?;
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
    let mut damaged = made::xz(&module("", RELEASE));
    damaged.truncate(damaged.len() / 2);
    let (owner, text) = refused(&[("a.ko.xz", &damaged)], "a");
    assert!(
        owner == Owner::Kernel && text.contains("a.ko.xz is damaged: it does not un"),
        "{text}"
    );
    let (_, text) = refused(&[("a.ko", b"\x7fELF and no more")], "a");
    assert!(text.contains("it is no ELF file"), "{text}");
    // No bomb is unpacked to its end.
    let (_, text) = refused(&[("a.ko.zst", &Pack::Zstd.pack(vec![0; 200 << 20]))], "a");
    assert!(text.contains("more than 128 MiB"), "{text}");
    let error = names(Path::new("/nonexistent"), &["a"]).expect_err("not there");
    assert!(error.owner() == Owner::Request && error.to_string().contains("/nonexistent"));
}

#[test]
fn a_list_that_cannot_be_read_is_not_taken_for_none() {
    // Root may read all files, but no folder.
    let list = format!("lib/modules/{RELEASE}/{BUILTIN}/x");
    let folder = folder(&[("boot/vmlinuz", b""), (&list, b"")]);
    let error = Tree::named(&[folder.path().to_owned()], Some(RELEASE), None).expect_err("named");
    assert_eq!(error.owner(), Owner::Request);
    let text = crate::status::chain(error);
    assert!(text.contains(&format!("{RELEASE}/{BUILTIN} cannot be read")), "{text}");
    assert!(text.ends_with("it is no regular file"), "{text}");
    // Beside a kernel nobody has asked for it.
    let tree = Tree::beside(Path::new("/"), &folder.path().join("boot/vmlinuz"), Some(RELEASE));
    let tree = tree.expect("a folder of its release");
    assert_eq!(tree.notes(), [text]);
    assert!(tree.lists().is_empty());
}

#[test]
fn an_initrd_has_them_in_order() {
    let (a, b) = (module("b", RELEASE), module("", RELEASE));
    let folder = folder(&[("a.ko", &a), ("b.ko", &b)]);
    let tree = Tree::named(&[folder.path().to_owned()], None, None).expect("a tree");
    let modules = tree.closure(["a"], None).expect("found");
    let laid = tempfile::tempdir().expect("tempdir");
    let mut archive = Archive::new();
    modules.add_to(&mut archive, "/modules").expect("added");
    let archive = archive.finish();
    fs::create_dir_all(laid.path().join("modules")).expect("made");
    for ((name, from), module) in
        [("modules/0000-b.ko", &b), ("modules/0001-a.ko", &a)].into_iter().zip(&modules.list)
    {
        assert!(memchr::memmem::find(&archive, name.as_bytes()).is_some(), "{name}");
        // Packed, and nowhere as it is.
        let packed = module.packed();
        let mut unpacked = Vec::new();
        let mut unpacker = flate2::read::GzDecoder::new(packed);
        io::Read::read_to_end(&mut unpacker, &mut unpacked).expect("packed");
        assert_eq!(unpacked, *from);
        assert!(memchr::memmem::find(&archive, packed).is_some(), "{name}");
        assert!(memchr::memmem::find(&archive, from).is_none(), "{name}");
        fs::write(laid.path().join(name), packed).expect("written");
    }
    // A guest hands on what it was given.
    let read = Modules::read(&laid.path().join("modules")).expect("read");
    assert_eq!(read.names(), modules.names());
    assert!(read.packed_bytes().eq(modules.packed_bytes()));
    let packed = modules.packed_bytes().map(|(_, bytes)| bytes).sum::<usize>();
    assert!((1..modules.bytes()).contains(&packed), "{packed} of {}", modules.bytes());
    assert!(read.note().is_none(), "whoever gave them has said so");
    let note = modules.note().expect("a note");
    assert!(note.starts_with("the kernel loads b, a first, from /"), "{note}");
    assert_eq!(Modules::read(&laid.path().join("none")).expect("none"), Modules::default());
}

/// A file of that name in `folder`, with the package of these files.
fn package(folder: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let path = folder.join(name);
    let pack = if name.contains("modules") { Pack::Zstd } else { Pack::Xz };
    let is_deb = name.ends_with(".deb");
    let bytes = if is_deb { made::deb(files, pack) } else { made::rpm(files, pack) };
    fs::write(&path, bytes).expect("written");
    path
}

const AT: &str = "./usr/lib/modules/6.1.0-1-amd64/";

fn at(path: &str) -> String {
    format!("{AT}{path}")
}

#[test]
fn packages_have_modules_and_what_these_need() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (kvm, bus) = (module("uncommon", RELEASE), Pack::Xz.pack(module("other", RELEASE)));
    let (deep, built_in) = (module("virtio", RELEASE), b"kernel/drivers/virtio/virtio.ko\n");
    for suffix in ["deb", "rpm"] {
        // Two parts, of which the second has what nobody expects a kernel to want.
        let lists = package(
            dir.path(),
            &format!("base.{suffix}"),
            &[(&at("modules.builtin"), built_in), (&at("kernel/other.ko"), &deep)],
        );
        let files = [(&*at("kernel/kvm.ko"), &kvm[..]), (&*at("updates/uncommon.ko.xz"), &bus)];
        let modules = package(dir.path(), &format!("modules.{suffix}"), &files);
        let both = [modules.clone(), lists];
        let tree = Tree::named(&both, Some(RELEASE), None).expect("packages");
        assert!(tree.is_builtin("virtio"));
        let found = tree.closure(["kvm", "virtio"], Some(RELEASE)).expect("found");
        assert_eq!(found.names(), ["other", "uncommon", "kvm"]);
        assert_eq!(found.list[2].bytes, kvm);
        let from = found.from().expect("both").to_owned();
        assert!(both.iter().all(|path| from.contains(&*path.to_string_lossy())), "{from}");
        // One of them has not all, and says which.
        let tree = Tree::named(&[modules], Some(RELEASE), None).expect("a package");
        let text = tree.closure(["kvm"], Some(RELEASE)).expect_err("half of it").to_string();
        assert!(text.contains("module other, which uncommon needs, is neither in /"), "{text}");
    }
}

#[test]
fn packages_of_a_release_that_lie_together_belong_together() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (mmio, listed) = (module("", RELEASE), b"kernel/virtio_mmio.ko\nkernel/kvm.ko\n");
    let name = |part: &str, version: &str| format!("linux-{part}-{RELEASE}_{version}_amd64.deb");
    let image = package(dir.path(), &name("binary", "1"), &[(&at("vmlinuz"), b"")]);
    let base = [(&*at("modules.builtin"), &b""[..]), (&*at("modules.order"), listed)];
    package(dir.path(), &name("base", "1"), &base);
    package(dir.path(), &name("modules", "1"), &[(&at("kernel/virtio_mmio.ko"), &mmio)]);
    // Of another build: nobody looks into it.
    fs::write(dir.path().join(name("modules", "2")), "!<arch>\ndebian-binary").expect("written");
    let tree = || {
        let package = Package::open(&image).expect("readable").expect("a package");
        let index = crate::package::Release::default();
        Tree::of_package(Packed::read_before(package, RELEASE, index), RELEASE)
    };
    let found = tree().expect("whole").closure(["virtio_mmio"], Some(RELEASE)).expect("found");
    assert_eq!(found.names(), ["virtio_mmio"]);
    // A large package is not read for what the lists deny, nor where lists lie in a small one.
    fs::write(
        dir.path().join(name("modules", "1")),
        [&b"!<arch>\ndebian-binary"[..], &[0; 9999]].concat(),
    )
    .expect("damaged");
    let tree = tree().expect("the lists are whole");
    assert!(tree.closure(["virtio_pci"], Some(RELEASE)).expect("nothing").is_empty());
    let error = tree.closure(["virtio_mmio"], Some(RELEASE)).expect_err("damaged");
    assert_eq!(error.owner(), Owner::Kernel);
    let text = error.to_string();
    assert!(text.contains(&name("modules", "1")) && text.contains("cannot be read"), "{text}");
}

#[test]
fn packages_that_will_not_do_are_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let refused = |path: PathBuf, release: Option<&str>| {
        let tree = Tree::named(&[path], release, None);
        let error = tree.and_then(|tree| tree.closure(["kvm"], release)).expect_err("refused");
        (error.owner(), error.to_string())
    };
    let theirs = module("", "6.2.0");
    let one = [("lib/modules/6.2.0/kernel/kvm.ko", &theirs[..])];
    let (owner, text) = refused(package(dir.path(), "other.deb", &one), Some(RELEASE));
    assert!(
        owner == Owner::Request && text.contains("other.deb is of kernel 6.2.0, and"),
        "{text}"
    );
    let two = [one[0], ("lib/modules/6.3.0/kernel/kvm.ko", &theirs[..])];
    let (owner, text) = refused(package(dir.path(), "two.rpm", &two), None);
    assert!(
        owner == Owner::Request && text.contains("give --modules one of 6.2.0, 6.3.0"),
        "{text}"
    );
    let (owner, text) = refused(package(dir.path(), "doc.deb", &[("doc", b"")]), Some(RELEASE));
    assert!(owner == Owner::Request && text.contains("there is no kernel module in "), "{text}");
    let file = dir.path().join("text");
    fs::write(&file, "text").expect("written");
    let (owner, text) = refused(file, Some(RELEASE));
    assert!(owner == Owner::Request && text.contains("text is neither a folder nor a"), "{text}");
}

#[test]
fn a_list_of_modules_spares_the_walk() {
    let mmio = module("", RELEASE);
    let listed = b"kernel/a/virtio_mmio.ko\nkernel/b/moved.ko\n";
    let folder = folder(&[
        (ORDER, listed),
        ("kernel/a/virtio_mmio.ko.xz", &made::xz(&mmio)),
        ("elsewhere/moved.ko", &mmio),
        ("elsewhere/kvm.ko", b"of nobody's build"),
    ]);
    let wanted = ["virtio_mmio", "moved", "kvm"];
    assert_eq!(names(folder.path(), &wanted).expect("two"), ["virtio_mmio", "moved"]);
}
