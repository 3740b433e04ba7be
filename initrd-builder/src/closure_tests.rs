// SPDX-License-Identifier: Apache-2.0
//! Tests of the closure against `ldd`, and against libraries linked for the purpose.

use std::collections::BTreeSet;
use std::process::Command;

use super::*;

/// The files `ldd` names: the second path of `name => path (address)`, or a lone path.
fn ldd(executable: &str) -> Option<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(executable).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(real);
    Some(text.lines().filter_map(path).collect())
}

fn real(path: impl AsRef<Path>) -> PathBuf {
    path.as_ref().canonicalize().unwrap_or_else(|_| path.as_ref().into())
}

#[test]
fn agrees_with_ldd() {
    let mut compared = 0;
    for executable in ["/bin/ls", "/bin/bash", "/usr/bin/gdb", "/usr/bin/qemu-system-x86_64"] {
        let Some(expected) = ldd(executable).filter(|_| Path::new(executable).exists()) else {
            eprintln!("skipped: no ldd or no {executable} on this machine");
            continue;
        };
        let found = closure(executable).unwrap();
        let found: BTreeSet<PathBuf> = found.iter().map(|library| real(&library.host)).collect();
        assert_eq!(found, expected, "{executable}");
        compared += 1;
    }
    eprintln!("{compared} executables agree with ldd");
}

/// Links `source` into `output`; `None` where this machine has no C compiler.
fn link(directory: &Path, output: &str, source: &str, flags: &[&str]) -> Option<PathBuf> {
    let source_path = directory.join("source.c");
    std::fs::write(&source_path, source).unwrap();
    let output = directory.join(output);
    let status = Command::new("cc").arg("-o").arg(&output).arg(&source_path).args(flags).status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no C compiler on this machine");
        return None;
    }
    Some(output)
}

#[test]
fn a_static_executable_needs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = "int main(void) { return 0; }";
    let Some(path) = link(dir.path(), "static", source, &["-static"]) else { return };
    assert_eq!(closure(path).unwrap(), []);
}

#[test]
fn origin_is_followed_and_the_library_moves_to_a_standard_directory() {
    for tags in ["-Wl,--disable-new-dtags", "-Wl,--enable-new-dtags"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.join("inner")).unwrap();
        let library = "int answer(void) { return 42; }";
        let soname = ["-shared", "-fPIC", "-Wl,-soname,libanswer.so"];
        let Some(host) = link(&dir, "inner/libanswer.so", library, &soname) else { return };
        let program = "int answer(void); int main(void) { return answer(); }";
        let inner = format!("-L{}/inner", dir.display());
        let flags = [&inner, "-lanswer", "-Wl,-rpath,$ORIGIN/inner", tags];
        let program = link(&dir, "program", program, &flags).unwrap();
        let found = closure(&program).unwrap();
        let found = found.iter().find(|library| library.host == host).unwrap();
        assert_eq!(found.guest, loader_path::home_in_guest().join("libanswer.so"));

        std::fs::remove_file(host).unwrap();
        let error = closure(&program).unwrap_err().to_string();
        assert!(error.contains("`libanswer.so`, needed by"), "{error}");
        assert!(error.contains(&format!("{}/inner", dir.display())), "{error}");
    }
}

#[test]
fn what_is_no_executable_is_an_error() {
    assert!(matches!(closure("/etc/passwd"), Err(InitrdError::NotElf { .. })));
    assert!(matches!(closure("/nonexistent"), Err(InitrdError::Read { .. })));
}
