// SPDX-License-Identifier: Apache-2.0
//! Kernels by their files.

use protocol::error::Owner;

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
    assert!(status == ExitStatus::Usage && text.contains("there is no kernel /"), "{text}");
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

/// What is to be typed is what a shell takes.
#[test]
fn a_next_step_can_be_typed() {
    let path = PathBuf::from("/my kernels/vmlinuz");
    let text = KernelFileError::Mode { path, mode: 0o600 }.to_string();
    assert!(text.contains("`sudo install -m 644 '/my kernels/vmlinuz' NEW`"), "{text}");
    let (path, kernel) = ("/root".into(), "/root/my kernels/vmlinuz".into());
    let text = KernelFileError::FolderMode { path, kernel, mode: 0o700 }.to_string();
    assert!(text.contains("kernel in /root: its mode is 0700"), "{text}");
    assert!(text.contains("`sudo install -m 644 '/root/my kernels/vmlinuz' NEW`"), "{text}");
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
    let home = tree(&[("bzImage", ""), ("config", "CONFIG_64BIT=y\nCONFIG_HZ=250\n")]);
    fs::write(home.path().join("bzImage"), kernel()).expect("write");
    let taken = opened(home.path());
    let beside = home.path().join("config");
    let known = taken.known(Lint::default(), Some("ab".into()), &[]);
    let config = known.config.expect("beside it");
    assert_eq!(config.source, Source::File(beside.clone()));
    assert_eq!(config.options["CONFIG_HZ"], "250");
    assert_eq!((known.version, known.build_id), (Some((6, 12)), Some("ab".into())));
    // The same from the image: the file is named, for it can be read.
    let same = taken.known(lint("CONFIG_64BIT=y\nCONFIG_HZ=250\n"), None, &[]);
    assert_eq!(same.config.expect("both").source, Source::File(beside.clone()));
    assert!(same.notes.is_empty(), "{:?}", same.notes);
    let other = taken.known(lint("CONFIG_64BIT=y\nCONFIG_HZ=1000\n"), None, &[]);
    assert_eq!(other.config.expect("both").source, Source::Image);
    assert!(other.notes[0].starts_with(&format!("{} is not", beside.display())));
}

/// Variables that name bzImages of real kernels, as for the tests of real kernels.
const REAL: [&str; 3] =
    ["SCHEDVMM_TEST_KERNEL_612", "SCHEDVMM_TEST_KERNEL_61", "SCHEDVMM_TEST_KERNEL_NEWEST"];

/// A real kernel that was cut, or in whose header a bit has changed, is a broken kernel, and no
/// wrong path: `git bisect` is to skip it.
#[test]
fn a_damaged_real_kernel_is_untestable_however_it_was_damaged() {
    let Some(path) = REAL.iter().find_map(std::env::var_os) else {
        println!("skipped: {REAL:?} name no bzImage");
        return;
    };
    let whole = fs::read(path).expect("a bzImage");
    let KernelImage::BzImage(good) = KernelImage::parse(whole.clone()).expect("a kernel") else {
        panic!("no bzImage")
    };
    for length in (1024..whole.len()).step_by(1024) {
        let Err(error) = KernelImage::parse(whole[..length].to_vec()) else {
            // What is behind the kernel is a signature, or padding.
            assert!(length + 2048 > whole.len(), "{length} of {} bytes", whole.len());
            continue;
        };
        assert_eq!(error.owner(), Owner::Kernel, "{length} bytes: {error}");
    }
    let header = 0x1f1..0x202 + usize::from(whole[0x201]);
    for (at, bit) in header.flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bent = whole.clone();
        bent[at] ^= 1 << bit;
        let ended = KernelImage::parse(bent).map_err(|error| (error.owner(), error.to_string()));
        let ended = ended.and_then(|image| load(&image, &good));
        if let Err((owner, text)) = ended {
            assert_eq!(owner, Owner::Kernel, "bit {bit} of byte {at:#x}: {text}");
        }
    }
}

/// Puts it into memory, of which there is little, unless it differs from one that is good in nothing
/// that matters for that.
fn load(image: &KernelImage, good: &vmm::x86_64::image::BzImage) -> Result<(), (Owner, String)> {
    const MEMORY_MIB: u64 = 256;
    let KernelImage::BzImage(bent) = image else { panic!("no bzImage") };
    let needs = [bent, good].map(|image| {
        let header = image.header;
        let (preferred, size) = (header.pref_address, header.init_size);
        (image.payload.clone(), preferred, size, header.cmdline_size, header.initrd_addr_max)
    });
    if needs[0] == needs[1] {
        return Ok(());
    }
    let topology = vmm::config::Topology { cpus: 1, threads_per_core: 1 };
    let config = vmm::config::Config::new(topology, MEMORY_MIB);
    vmm::load::fill(&config, vmm::load::Kernel::Image(image), vmm::load::Initrd::Bytes(&[]))
        .map(drop)
        .map_err(|error| (error.owner(), error.to_string()))
}

/// A vmlinux with what debuggers want has gigabytes, and megabytes of it are loaded.
#[test]
fn a_large_file_is_read_as_far_as_it_is_loaded() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("vmlinux");
    let long = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("write");
        let file = File::options().write(true).open(&path).expect("opened");
        // Sparse: nothing of it is on the disk.
        file.set_len(3 << 30).expect("a long file");
    };
    let mut elf = vmm::x86_64::elf::flat_kernel(FLAT, &[0xf4; 8192]);
    long(&elf);
    assert_eq!(opened(&path).image.bytes().len(), elf.len());
    // What is to be loaded lies at its end.
    let offset = 64 + 8;
    elf[offset..offset + 8].copy_from_slice(&(2u64 << 30).to_le_bytes());
    long(&elf);
    let (status, text) = refused(&path);
    assert!(status == ExitStatus::Untestable && text.contains("more than any kernel"), "{text}");
    long(b"no ELF file");
    assert_eq!(refused(&path).0, ExitStatus::Untestable);
}
