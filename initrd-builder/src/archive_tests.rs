// SPDX-License-Identifier: Apache-2.0
//! Tests of the archive: read back by a small reader of our own, and by Debian's cpio.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

/// Mode, name and contents of every entry, read by the format's rules. Panics where the
/// archive breaks them.
fn read_back(bytes: &[u8]) -> Vec<(u32, String, Vec<u8>)> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        assert_eq!(at % ALIGNMENT, 0);
        let header = std::str::from_utf8(&bytes[at..at + HEADER_LEN]).unwrap();
        assert_eq!(&header[..6], "070701");
        let field = |n: usize| u32::from_str_radix(&header[6 + n * 8..14 + n * 8], 16).unwrap();
        let (size, name_len) = (field(6) as usize, field(11) as usize);
        let name = &bytes[at + HEADER_LEN..at + HEADER_LEN + name_len];
        let (nul, name) = name.split_last().unwrap();
        assert_eq!(*nul, 0);
        let name = String::from_utf8(name.to_vec()).unwrap();
        let data = (at + HEADER_LEN + name_len).next_multiple_of(ALIGNMENT);
        if name == TRAILER {
            assert!(bytes[data..].iter().all(|byte| *byte == 0));
            assert_eq!(bytes.len() % BLOCK_LEN, 0);
            return entries;
        }
        entries.push((field(1), name, bytes[data..data + size].to_vec()));
        at = (data + size).next_multiple_of(ALIGNMENT);
    }
}

#[test]
fn any_length_of_name_and_contents_reads_back() {
    for name_len in 1..12 {
        for len in (0..10).chain([4095, 4096, 4097]) {
            let name = "n".repeat(name_len);
            let contents: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut archive = Archive::new();
            archive.file(&name, 0o640, &contents).unwrap();
            archive.file("last", 0o600, "x").unwrap();
            let entries = read_back(&archive.finish());
            assert_eq!(entries[0], (0o100_640, name, contents));
            assert_eq!(entries[1].2, b"x");
        }
    }
}

#[test]
fn parents_come_before_children_and_once() {
    let mut archive = Archive::new();
    archive.file("/a/b/one", 0o644, "1").unwrap();
    archive.file("/a/b/two", 0o644, "2").unwrap();
    let bytes = archive.finish();
    let names: Vec<String> = read_back(&bytes).into_iter().map(|entry| entry.1).collect();
    assert_eq!(names, ["a", "a/b", "a/b/one", "a/b/two"]);
}

#[test]
fn an_implied_directory_takes_the_mode_it_is_given_later_and_only_once() {
    let mut archive = Archive::new();
    archive.file("/tmp/x", 0o644, "").unwrap();
    archive.dir("/tmp", 0o1777).unwrap();
    assert!(matches!(archive.dir("/tmp", 0o755), Err(InitrdError::Duplicate { .. })));
    assert_eq!(read_back(&archive.finish())[0].0, 0o041_777);
}

#[test]
fn the_same_path_twice_is_an_error() {
    let mut archive = Archive::new();
    archive.file("/a", 0o644, "1").unwrap();
    for again in ["/a", "a", "./a", "//a/"] {
        let error = archive.file(again, 0o644, "2").unwrap_err();
        assert!(matches!(error, InitrdError::Duplicate { path } if path == "a"));
    }
    let error = archive.file("/a/b", 0o644, "").unwrap_err();
    assert!(matches!(error, InitrdError::ParentNotADirectory { .. }));
    assert_eq!(read_back(&archive.finish()).len(), 1);
}

#[test]
fn bad_paths_are_refused() {
    let mut archive = Archive::new();
    let long = "x".repeat(NAME_MAX_LEN);
    for path in ["", "/", ".", "../a", "/a/../b", "a\0b", TRAILER, &long] {
        assert!(matches!(archive.file(path, 0, ""), Err(InitrdError::BadPath { .. })), "{path}");
    }
    assert!(archive.symlink("/l", "").is_err());
    assert!(read_back(&archive.finish()).is_empty());
}

#[test]
fn sizes_beyond_the_field_are_refused() {
    assert_eq!(size_field("f", (1 << 32) - 1).unwrap(), u32::MAX);
    assert!(matches!(size_field("f", 1 << 32), Err(InitrdError::TooLarge { .. })));

    // A sparse file of 4 GiB costs nothing to make, and must not be read.
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 32).unwrap();
    let error = Archive::new().file_from("/big", 0o644, file.path()).unwrap_err();
    assert!(matches!(error, InitrdError::TooLarge { size, .. } if size == 1 << 32));
}

#[test]
fn unreadable_host_files_leave_nothing_behind() {
    let mut archive = Archive::new();
    for path in ["/nonexistent", "/", "/dev/null"] {
        assert!(matches!(archive.file_from("/x", 0o644, path), Err(InitrdError::Read { .. })));
    }
    archive.file("/x", 0o644, "").unwrap();
    assert_eq!(read_back(&archive.finish()).len(), 1);
}

#[test]
fn debians_cpio_lists_every_kind_of_entry() {
    let mut archive = Archive::new();
    archive.standard_nodes().unwrap();
    archive.file("/init", 0o755, "program").unwrap();
    archive.symlink("/bin/sh", "busybox").unwrap();
    let child =
        Command::new("cpio").arg("-itv").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: no cpio on this machine");
        return;
    };
    child.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let listing = String::from_utf8(output.stdout).unwrap();
    let has = |start: &str, end: &str| {
        assert!(
            listing.lines().any(|line| line.starts_with(start) && line.ends_with(end)),
            "{start} … {end} in\n{listing}"
        );
    };
    has("crw-------", "dev/console");
    has("crw-rw-rw-", "dev/null");
    has("drwxrwxrwt", "tmp");
    has("-rwxr-xr-x", "init");
    has("lrwxrwxrwx", "bin/sh -> busybox");
    assert!(listing.contains("5,   1"), "{listing}");
}

#[test]
fn executables_share_their_libraries() {
    if !Path::new("/bin/ls").exists() || !Path::new("/bin/cat").exists() {
        eprintln!("skipped: no coreutils on this machine");
        return;
    }
    let mut archive = Archive::new();
    archive.add_executable("/bin/ls", "/bin/ls").unwrap();
    archive.add_executable("/bin/cat", "/bin/cat").unwrap();
    let error = archive.add_executable("/bin/cat", "/bin/cat").unwrap_err();
    assert!(matches!(error, InitrdError::Duplicate { .. }));
    let bytes = archive.finish();
    let libc = read_back(&bytes).iter().filter(|entry| entry.1.ends_with("libc.so.6")).count();
    assert!(libc <= 1);
}
