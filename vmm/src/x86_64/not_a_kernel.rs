// SPDX-License-Identifier: Apache-2.0
//! Kinds of files that are given as a kernel and are none: people have kernels in packages, in
//! wrappings and for other machines, and the name of the thing is half of the way out.
//!
//! Sources: file(1)'s magic; systemd's documentation of unified kernel images; Linux
//! drivers/firmware/efi/libstub/zboot-header.S, Documentation/arch/{arm64/booting,
//! riscv/boot-image-header}.rst.

use std::io::{self, Read};

use crate::x86_64::image_error::Other;
use crate::x86_64::magic::{ELF_MAGIC, MAX_XZ_BYTES, most_unpacked};
use crate::x86_64::packed::{self, Format};
use crate::x86_64::wrapped;

/// Nor does a file that begins so long as a text go on as a kernel.
const TEXT_BYTES: usize = 512;

const GIVE: &str = "give a bzImage or a vmlinux for x86-64";

fn other(what: impl Into<String>, advice: impl Into<String>) -> Option<Other> {
    Some(Other { what: what.into(), advice: advice.into() })
}

/// Begins at `at` with `magic`: is `what`; `advice` for it.
type Known = (usize, &'static [u8], &'static str, &'static str);

const KNOWN: [Known; 21] = [
    (
        0,
        b"!<arch>\ndebian-binary",
        "a Debian package",
        "give the package itself, or a folder that it was unpacked into",
    ),
    (0, b"!<arch>\n", "an archive of object files", GIVE),
    (
        0,
        b"\xed\xab\xee\xdb",
        "an RPM package",
        "give the package itself, or a folder that it was unpacked into",
    ),
    (0x38, b"ARM\x64", "a kernel for arm64", GIVE),
    (0x38, b"RSC\x05", "a kernel for RISC-V", GIVE),
    (0, b"070701", INITRD, INITRD_ADVICE),
    (0, b"070702", INITRD, INITRD_ADVICE),
    (0, b"070707", INITRD, INITRD_ADVICE),
    (0, b"\xc7\x71", INITRD, INITRD_ADVICE),
    (0, b"QFI\xfb", "a qcow2 disk image", DISK),
    (0, b"KDMV", "a VMware disk image", DISK),
    (0, b"conectix", "a VHD disk image", DISK),
    (0, b"vhdxfile", "a VHDX disk image", DISK),
    (0, b"hsqs", "a squashfs file system", DISK),
    (0x8001, b"CD001", "an ISO 9660 image", DISK),
    (0x101, b"ustar", "a tar archive", "unpack it with `tar -xf FILE` and give the kernel in it"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it and give the kernel in it"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image", GIVE),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or a FIT image", GIVE),
    (0, b"KDUMP   ", "a crash dump", GIVE),
    (0, b"#!", "a script", GIVE),
];

const INITRD: &str = "an initrd (a cpio archive)";
const INITRD_ADVICE: &str =
    "give the kernel that it belongs to; `schedvmm boot --initrd` takes an initrd beside one";
const DISK: &str = "no disk is booted here; give the kernel that is on it";

/// What `bytes`, the whole file, is; `None` if it may be a kernel or is nothing known. `bytes` has
/// no boot header of a bzImage.
pub(super) fn recognise(bytes: &[u8]) -> Option<Other> {
    packed(bytes).or_else(|| bare(bytes))
}

/// The same, of what is not packed.
fn bare(bytes: &[u8]) -> Option<Other> {
    if bytes.starts_with(ELF_MAGIC) {
        return elf(bytes);
    }
    let known = KNOWN
        .iter()
        .find(|(at, magic, ..)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    if let Some((_, _, what, advice)) = known {
        return other(*what, *advice);
    }
    if bytes.starts_with(b"MZ") {
        return efi(bytes);
    }
    if let Some(packed) = packed(bytes) {
        return Some(packed);
    }
    if bytes.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) {
        return other("a disk image", DISK);
    }
    text(bytes)
}

/// Kinds of texts.
fn text(bytes: &[u8]) -> Option<Other> {
    let head = &bytes[..bytes.len().min(TEXT_BYTES)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // A letter that goes on beyond what is looked at.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if text.is_empty() || text.contains(|it: char| it.is_control() && !it.is_ascii_whitespace()) {
        return None;
    }
    if is_kernel_config(text) {
        other("a kernel's configuration", "give the kernel that is built with it")
    } else if begins_with("<!doctype html", text) || begins_with("<html", text) {
        other("a web page", "a download went wrong: fetch the kernel again")
    } else if begins_with("version https://git-lfs", text) {
        other("a pointer of Git LFS", "fetch what it stands for with `git lfs pull`")
    } else {
        other("a text file", GIVE)
    }
}

/// ASCII case does not count.
fn begins_with(word: &str, text: &str) -> bool {
    let start = text.trim_start().get(..word.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Kinds of ELF files that are no vmlinux.
fn elf(bytes: &[u8]) -> Option<Other> {
    const RELOCATABLE: u8 = 1;
    const SHARED: u8 = 3;
    const CORE: u8 = 4;
    match bytes.get(16..18) {
        Some([RELOCATABLE, 0]) => other(
            "a kernel module or another object file",
            format!("it belongs to a kernel; {GIVE}"),
        ),
        Some([SHARED, 0]) => other("a program or a shared library", GIVE),
        Some([CORE, 0]) => other("a core dump", GIVE),
        _ => None,
    }
}

/// EFI executables that are no bzImage.
fn efi(bytes: &[u8]) -> Option<Other> {
    if bytes.get(4..8) == Some(wrapped::ZBOOT_MAGIC) {
        let what = "an EFI zboot image, as kernels for arm64, RISC-V and LoongArch come in";
        return other(what, GIVE);
    }
    wrapped::sections(bytes)?;
    other("an EFI program", GIVE)
}

/// What is packed as a whole.
fn packed(bytes: &[u8]) -> Option<Other> {
    let (name, tool) = match packed::format(bytes) {
        Some(Format::Gzip) => ("gzip", "gunzip"),
        Some(Format::Xz) => ("xz", "unxz"),
        Some(Format::Zstd) => ("zstd", "unzstd"),
        Some(Format::Lz4) => ("lz4", "unlz4"),
        Some(Format::Lzma) => ("lzma", "unlzma"),
        None if bytes.starts_with(b"BZh") => ("bzip2", "bunzip2"),
        None if bytes.starts_with(b"\x04\x22\x4d\x18") => ("lz4", "unlz4"),
        None => return None,
    };
    let unpack = format!("unpack it with `{tool} < FILE > NEW`");
    let inside = wrapped::peek(bytes);
    // Once: there are files that unpack to themselves.
    if packed::format(&inside).is_some() {
        return other(format!("something packed twice, with {name} last"), unpack);
    }
    if let Some(inside) = bare(&inside) {
        return other(format!("{}, packed with {name}", inside.what), inside.advice);
    }
    other(format!("a file packed with {name}"), format!("{unpack}; {GIVE}"))
}

/// Why something that is packed as a whole does not unpack, where nothing is known of what is in it: it
/// may have been a kernel. Of the other formats there is no decoder for whole files, or no checksum.
pub(super) fn damage(bytes: &[u8]) -> Option<String> {
    let format = packed::format(bytes)
        .filter(|format| matches!(format, Format::Gzip | Format::Xz | Format::Zstd))?;
    let inside = wrapped::peek(bytes);
    if bytes.len() > MAX_XZ_BYTES || packed::format(&inside).is_some() || bare(&inside).is_some() {
        return None;
    }
    let unpacked = packed::reader(format, bytes)
        .and_then(|reader| io::copy(&mut reader.take(most_unpacked(bytes.len())), &mut io::sink()));
    unpacked.err().map(|error| format!("it is packed ({format}), and does not unpack: {error}"))
}

/// The first lines of a .config name the program that has written it.
fn is_kernel_config(text: &str) -> bool {
    text.starts_with('#') && text.contains("Automatically generated file; DO NOT EDIT.")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::damage;
    use crate::x86_64::elf::flat_kernel;
    use crate::x86_64::image::{self, KernelImage};
    use crate::x86_64::image_error::ImageError;
    use crate::x86_64::wrapped::tests::pe;

    /// What is said of a file, and it must be refused.
    fn said(bytes: &[u8]) -> String {
        KernelImage::parse(bytes.to_vec()).expect_err("no kernel").to_string()
    }

    fn at(offset: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; offset];
        bytes.extend_from_slice(magic);
        bytes.resize(bytes.len() + 64, 0);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(bytes).expect("gzip");
        encoder.finish().expect("gzip")
    }

    #[test]
    fn packages_and_archives_are_named_with_the_way_out() {
        let deb = said(&at(0, b"!<arch>\ndebian-binary   1"));
        assert!(deb.contains("a Debian package") && deb.contains("unpacked into"), "{deb}");
        let rpm = said(&at(0, b"\xed\xab\xee\xdb\x03"));
        assert!(rpm.contains("an RPM package") && rpm.contains("unpacked into"), "{rpm}");
        for (bytes, what) in [
            (at(0, b"070701000000"), "an initrd"),
            (gzip(&at(0, b"070701000000")), "an initrd (a cpio archive), packed with gzip"),
            (at(0, b"QFI\xfb\0\0\0\x03"), "a qcow2 disk image"),
            (at(0x101, b"ustar\x0000"), "a tar archive"),
            (at(0x1fe, &[0x55, 0xaa]), "a disk image"),
            (b"#!/bin/sh\n".to_vec(), "a script"),
            (b"#\n# Automatically generated file; DO NOT EDIT.\n".to_vec(), "configuration"),
        ] {
            assert!(said(&bytes).contains(what), "{what}: {}", said(&bytes));
        }
    }

    #[test]
    fn efi_wrappings_are_told_apart() {
        assert!(said(&pe(&[(b".text\0\0\0", b"")])).contains("an EFI program"));
        let mut zboot = at(0, b"MZ\0\0zimg");
        zboot.resize(0x300, 0);
        assert!(said(&zboot).contains("an EFI zboot image"), "{}", said(&zboot));
        // A header that leads nowhere.
        let mut wild = pe(&[]);
        wild[0x3c..0x40].fill(0xff);
        assert!(said(&wild).contains("starts with bytes"), "{}", said(&wild));
    }

    /// Whatever is in it: an initrd is one, with what is behind its end.
    #[test]
    fn damage_is_told_of_what_is_packed_and_not_known() {
        let whole = gzip(&[7; 700]);
        assert_eq!(damage(&whole), None);
        let told = damage(&whole[..whole.len() - 4]).expect("cut");
        assert!(told.starts_with("it is packed (gzip), and does not unpack: "), "{told}");
        let mut wrong = whole.clone();
        wrong[14] ^= 8;
        assert!(damage(&wrong).is_some(), "a checksum");
        let zstd = zstd::bulk::compress(&[7; 5000], 3).expect("zstd");
        assert!(damage(&zstd[..zstd.len() - 2]).is_some());
        let initrd = [gzip(&at(0, b"070701000000")), vec![1; 700]].concat();
        assert_eq!(damage(&initrd), None);
        assert!(said(&initrd).contains("an initrd (a cpio archive), packed with gzip"));
        assert_eq!(damage(b"BZh91AY&SY"), None);
    }

    #[test]
    fn what_is_packed_is_named() {
        let zstd = zstd::bulk::compress(b"no kernel\0", 3).expect("zstd");
        let text = said(&zstd);
        assert!(text.contains("a file packed with zstd") && text.contains("unzstd"), "{text}");
        // There is no decoder for these as whole files.
        assert!(said(b"BZh91AY&SY").contains("`bunzip2 < FILE > NEW`"));
        assert!(said(b"\x02\x21\x4c\x18xx").contains("`unlz4 < FILE > NEW`"));
        let arm = said(&gzip(&at(0x38, b"ARM\x64")));
        assert!(arm.contains("a kernel for arm64, packed with gzip"), "{arm}");
    }

    #[test]
    fn kernels_for_other_machines_are_named() {
        let mut efi = at(0x38, b"ARM\x64");
        efi[..2].copy_from_slice(b"MZ");
        efi.resize(0x400, 0);
        assert!(said(&efi).contains("a kernel for arm64"), "{}", said(&efi));
        assert!(said(&at(0x38, b"RSC\x05")).contains("RISC-V"));
        let mut elf = flat_kernel(0x100_0000, &[0xf4; 16]);
        elf[18] = 183;
        assert!(said(&elf).contains("arm64 (machine 183)"), "{}", said(&elf));
    }

    #[test]
    fn elf_files_that_are_no_vmlinux_are_named() {
        for (kind, what) in [(1, "a kernel module"), (3, "a program"), (4, "a core dump")] {
            let mut elf = flat_kernel(0x100_0000, &[0xf4; 16]);
            elf[16] = kind;
            assert!(said(&elf).contains(what), "{}", said(&elf));
        }
    }

    /// However often it is packed: a file may unpack to itself, for ever.
    #[test]
    fn what_is_packed_is_unpacked_once() {
        let mut many = image::tests::bzimage(&[7; 64]);
        for _ in 0..30 {
            many = gzip(&many);
        }
        let text = said(&many);
        assert!(text.contains("something packed twice, with gzip last"), "{text}");
        assert_eq!(text.matches("gzip").count(), 1, "{text}");
        assert!(text.contains("`gunzip < FILE > NEW`"), "{text}");
    }

    #[test]
    fn texts_are_named() {
        for (bytes, what) in [
            (&b"rosebud"[..], "a text file"),
            ("root:x:0\nä\u{1f600}".as_bytes(), "a text file"),
            (b"\n<!DOCTYPE HTML><html>", "a web page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"#\n# Automatically generated file; DO NOT EDIT.\n", "configuration"),
        ] {
            assert!(said(bytes).contains(what), "{what}: {}", said(bytes));
        }
        // Whatever is cut where 512 bytes end.
        let long = format!("{}äää", "x".repeat(511));
        assert!(said(long.as_bytes()).contains("a text file"), "{}", said(long.as_bytes()));
        for binary in [&b"text\0"[..], b"t\xff\xfe", b"t\x1b[2J", b"\xc3"] {
            assert!(said(binary).contains("starts with bytes"), "{}", said(binary));
        }
    }

    #[test]
    fn what_is_not_known_shows_its_first_bytes() {
        let error = KernelImage::parse(b"\x01\0\x03rosebud".to_vec()).expect_err("no kernel");
        assert_eq!(error, ImageError::NotAKernel(b"\x01\0\x03r".to_vec()));
    }
}
