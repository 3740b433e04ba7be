// SPDX-License-Identifier: Apache-2.0
//! Kernels by their files.

use super::*;
use crate::status::ExitStatus;
use crate::testing::{made, tree};

const FLAT: u32 = 0x100_0000;

fn kernel() -> Vec<u8> {
    made::vmlinux("6.12.1-test", "")
}

fn lint(lines: &str) -> Lint {
    Lint { banner: None, config: Some(vmm::x86_64::lint::options(lines)) }
}

fn opened(path: &Path) -> Kernel {
    open_below(Path::new("/nonexistent"), path, &[])
        .map_err(|failure| failure.to_string())
        .expect("a kernel")
}

fn refused(path: &Path) -> (ExitStatus, String) {
    let failure = open_below(Path::new("/nonexistent"), path, &[]).expect_err("no kernel");
    (failure.status(), failure.to_string())
}

#[test]
fn files_that_are_not_there_are_usage_and_bad_ones_untestable() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (status, text) = refused(&dir.path().join("none"));
    assert!(status == ExitStatus::Usage && text.contains("No such file"), "{text}");
    let (status, text) = refused(dir.path());
    assert!(status == ExitStatus::Usage && text.contains("is a folder: give the bzImage"));
    let empty = dir.path().join("empty");
    fs::write(&empty, b"").expect("write");
    let (status, text) = refused(&empty);
    assert_eq!(status, ExitStatus::Untestable);
    assert!(text.contains("empty") && text.contains("bzImage"), "{text}");
    let module = dir.path().join("kvm.ko");
    let mut elf = vmm::x86_64::elf::flat_kernel(FLAT, &[0xf4; 16]);
    elf[16] = 1;
    fs::write(&module, elf).expect("write");
    let (status, text) = refused(&module);
    assert!(status == ExitStatus::Usage && text.contains("a kernel module"), "{text}");
    let (status, _) = refused(Path::new("/dev/null"));
    assert_eq!(status, ExitStatus::Usage);
}

#[test]
fn a_file_says_what_it_was_wrapped_in() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("vmlinux.xz");
    fs::write(&path, made::xz(&kernel())).expect("write");
    let taken = opened(&path);
    assert_eq!(taken.release.as_deref(), Some("6.12.1-test"));
    assert_eq!(taken.place(), format!("{} (unpacked (xz))", path.display()));
    let line = taken.known(Lint::default(), None, &[]).line(&taken);
    assert!(line.ends_with("Linux 6.12.1-test; configuration: not known"), "{line}");
}

#[test]
fn a_configuration_beside_counts_unless_the_image_knows_better() {
    let home = tree(&[("bzImage", ""), ("config", "CONFIG_SMP=y\nCONFIG_HZ=250\n")]);
    fs::write(home.path().join("bzImage"), kernel()).expect("write");
    let taken = opened(home.path());
    let beside = home.path().join("config");
    let known = taken.known(Lint::default(), Some("ab".into()), &[]);
    let config = known.config.expect("beside it");
    assert_eq!(config.source, Source::File(beside.clone()));
    assert_eq!(config.options["CONFIG_HZ"], "250");
    assert_eq!((known.version, known.build_id), (Some((6, 12)), Some("ab".into())));
    // The same from the image: the file is named, for it can be read.
    let same = taken.known(lint("CONFIG_SMP=y\nCONFIG_HZ=250\n"), None, &[]);
    assert_eq!(same.config.expect("both").source, Source::File(beside.clone()));
    assert!(same.notes.is_empty(), "{:?}", same.notes);
    let other = taken.known(lint("CONFIG_SMP=y\nCONFIG_HZ=1000\n"), None, &[]);
    assert_eq!(other.config.expect("both").source, Source::Image);
    assert!(other.notes[0].starts_with(&format!("{} is not", beside.display())));
}
