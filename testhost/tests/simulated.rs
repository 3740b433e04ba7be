// SPDX-License-Identifier: Apache-2.0
//! A Bochs that does not do what it should: each ends with its name, what it has said and the next
//! step, and nothing of it is left. Scripts play its part.

use std::fs::{Permissions, read_to_string, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use testhost::host::accident::HostLost;
use testhost::host::{Simulated, TestHost};

/// Runs a host whose Bochs is a script with these lines, and says how that failed. `$log` is the
/// log, and the script's process is named in the file `pid`.
fn failure(script: &str, tick_timeout: Duration) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("bochs-bin");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --help ] && {{ echo Bochs x86 Emulator 2.7; exit 0; }}\n\
         echo $$ > {}/pid\nlog=$(sed -n 's/^log: //p' \"$3\")\n{script}\n",
        dir.path().display()
    );
    write(&program, text).unwrap();
    set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let kernel = dir.path().join("bzImage");
    let mut image = vec![0; 64 << 10];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    write(&kernel, image).unwrap();
    let machine = Simulated { program, tick_timeout, ..Simulated::default() };
    let host = TestHost::builder()
        .simulated(machine)
        .kernel(kernel)
        .xtask("/bin/true")
        .schedvmm("/bin/true");
    let error = host.run(["true"], |_, _| {}).expect_err("there is no machine");
    (dir, format!("{}{error:#}", if error.is::<HostLost>() { "LOST: " } else { "" }))
}

/// The script's process has ended.
fn assert_gone(dir: &Path) {
    let pid = read_to_string(dir.join("pid")).expect("the script ran");
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "{pid} still runs");
}

/// For scripts that are not to be waited for.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn refused_options_are_told_in_its_own_words() {
    let words = "echo Bochs is exiting with the following message:\n\
                 echo '[      ] /proc/self/fd/7:9: cpu directive malformed.'\nexit 1";
    let (_dir, error) = failure(words, LONG);
    for part in ["LOST: the simulated host ended", "options", "cpu directive malformed", "--venue"]
    {
        assert!(error.contains(part), "`{part}` in: {error}");
    }
}

#[test]
fn an_end_in_the_middle_is_told_with_the_end_of_its_log() {
    let script =
        "echo '=== statistics dump 5000000 ==='; echo 'the CPU went up in smoke' > $log; exit 3";
    let (_dir, error) = failure(script, LONG);
    for part in ["LOST: ", "Bochs ended (exit status: 3)", "5 million ticks", "went up in smoke"] {
        assert!(error.contains(part), "`{part}` in: {error}");
    }
}

#[test]
fn a_hang_is_found_out_and_stopped() {
    let script = "for n in 1 2 3 4 5 6; do echo \"=== statistics dump ${n}000000 ===\"; sleep 0.4; done\n\
                  echo last words; exec sleep 600";
    let (dir, error) = failure(script, Duration::from_secs(1));
    for part in ["LOST: ", "hangs", "for 1 s, after 6 million", "last words", "try again"] {
        assert!(error.contains(part), "`{part}` in: {error}");
    }
    assert!(error.contains("its console is empty"), "{error}");
    assert_gone(dir.path());
}

#[test]
fn a_full_log_ends_the_machine() {
    let script = "yes '00123e[CPU0] what a mess' | head -c 17000000 > $log; exec sleep 600";
    let (dir, error) = failure(script, LONG);
    for part in ["LOST: ", "log is full (16 MiB)", "what a mess", "error: action=ignore"] {
        assert!(error.contains(part), "`{part}` in: {error}");
    }
    assert_gone(dir.path());
}

#[test]
fn what_cannot_boot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("bochs-bin");
    write(&program, "#!/bin/sh\necho Bochs x86 Emulator 2.7\n").unwrap();
    set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let host = TestHost::builder()
        .simulated(Simulated { program, ..Simulated::default() })
        .kernel("/bin/true")
        .xtask("/bin/true")
        .schedvmm("/bin/true");
    let error = format!("{:#}", host.run(["true"], |_, _| {}).expect_err("no kernel"));
    assert!(error.contains("bzImage"), "{error}");
    for memory_mib in [64, 6000] {
        let error = host.clone().memory_mib(memory_mib).run(["true"], |_, _| {});
        let error = format!("{:#}", error.expect_err("no such machine"));
        assert!(error.contains("256 to 2040 MiB") && error.contains("--memory 1500"), "{error}");
    }
}
