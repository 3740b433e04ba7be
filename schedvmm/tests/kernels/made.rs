// SPDX-License-Identifier: Apache-2.0
//! Kernels that are made here: each form of a name, and each status.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use vmm::x86_64::elf::flat_kernel;

use crate::calls::{call, finish};
use crate::files::{self, Pack};

/// All cases.
pub const CASES: [(&str, fn()); 15] = [
    ("what_config_prints_makes_a_kernel_complete", what_config_prints_makes_a_kernel_complete),
    ("gaps_and_what_is_vital_are_told_apart", gaps_and_what_is_vital_are_told_apart),
    ("an_unknown_configuration_is_said", an_unknown_configuration_is_said),
    ("a_package_is_looked_into", a_package_is_looked_into),
    ("a_build_tree_is_named_by_its_folder", a_build_tree_is_named_by_its_folder),
    ("what_is_no_kernel_is_refused_with_a_reason", what_is_no_kernel_is_refused_with_a_reason),
    ("a_file_of_somebody_else_says_how_to_read_it", a_file_of_somebody_else_says_how_to_read_it),
    (
        "a_folder_of_somebody_else_is_not_told_to_be_empty",
        a_folder_of_somebody_else_is_not_told_to_be_empty,
    ),
    (
        "a_package_of_somebody_else_that_is_not_needed_is_left_out",
        a_package_of_somebody_else_that_is_not_needed_is_left_out,
    ),
    ("the_main_job_takes_the_same_names", the_main_job_takes_the_same_names),
    ("a_build_tree_of_somebody_else_is_not_told_to_be_built", {
        a_build_tree_of_somebody_else_is_not_told_to_be_built
    }),
    ("a_copy_that_can_be_read_is_taken", a_copy_that_can_be_read_is_taken),
    ("what_lies_beside_says_why_it_is_not_read", what_lies_beside_says_why_it_is_not_read),
    ("lists_of_another_kernel_are_not_believed", lists_of_another_kernel_are_not_believed),
    ("the_transport_is_told", the_transport_is_told),
];

/// A vmlinux that does nothing, and has nothing built in that it would say.
pub fn kernel() -> Vec<u8> {
    kernel_of("")
}

/// A vmlinux that does nothing, with the texts of what is built in by this configuration.
pub fn kernel_of(config: &str) -> Vec<u8> {
    const TEXTS: [(&str, &str); 6] = [
        ("KVM_INTEL", "kvm_intel."),
        ("KVM_AMD", "kvm_amd."),
        ("VIRTIO_MMIO", "LNRO0005"),
        ("VIRTIO_PCI", "virtio-pci"),
        ("VIRTIO_CONSOLE", "virtio_console"),
        ("BLK_DEV_INITRD", "Initramfs unpacking failed"),
    ];
    let mut texts = b"\0Linux version 6.12.1-made (tester) #1 SMP\n\0".to_vec();
    for (_, text) in TEXTS.iter().filter(|(name, _)| config.contains(&format!("CONFIG_{name}=y"))) {
        texts.extend([text.as_bytes(), b"\0"].concat());
    }
    flat_kernel(0x100_0000, &texts)
}

/// What `schedvmm config --nested` prints, with what that selects.
pub fn complete(dir: &Path) -> String {
    let output = call(dir, &["config", "--nested"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text") + "CONFIG_EVENT_TRACING=y\n"
}

/// A kernel in a folder, with this configuration.
fn put(dir: &Path, config: &str) {
    fs::write(dir.join("vmlinux"), kernel_of(config)).expect("written");
    fs::write(dir.join("config"), config).expect("written");
}

pub fn status(output: &Output) -> Option<i32> {
    output.status.code()
}

/// A Debian package with these files.
fn deb(files: &[(&str, &[u8])]) -> Vec<u8> {
    files::deb(files, Pack::Zstd)
}

fn what_config_prints_makes_a_kernel_complete() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    put(dir, &complete(dir));
    for words in [&["check", "."][..], &["check", "vmlinux", "--nested"]] {
        let output = call(dir, words);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(status(&output), Some(0), "{text}");
        assert!(text.contains("all is there for") && text.contains("6.12.1-made"), "{text}");
        assert!(!text.contains("missing") && output.stderr.is_empty(), "{output:?}");
    }
}

fn gaps_and_what_is_vital_are_told_apart() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let complete = complete(dir);
    put(dir, &complete.replace("CONFIG_SCHED_CORE=y", "# CONFIG_SCHED_CORE is not set"));
    let output = call(dir, &["check", "vmlinux"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(status(&output), Some(1), "{text}");
    assert!(text.contains("no SCHED_CORE, no cookies: measure the scheduler without"), "{text}");
    assert!(text.contains("what is missing comes with:\n    CONFIG_SCHED_CORE=y\n"), "{text}");
    let without = complete.replace("CONFIG_VIRTIO_CONSOLE=y", "CONFIG_VIRTIO_CONSOLE=m");
    put(dir, &without);
    let output = call(dir, &["check", "vmlinux"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(status(&output), Some(125), "{text}");
    let told = "module          its module is not found: give --modules, else it cannot run";
    assert!(text.contains(told), "{text}");
    let modules = dir.join("modules");
    fs::create_dir(&modules).expect("made");
    let console = files::module("", "6.12.1-made");
    fs::write(modules.join("virtio_console.ko"), console).expect("written");
    let output = call(dir, &["check", "vmlinux", "--modules", "modules"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(status(&output), Some(0), "{text}");
    assert!(text.contains("loads         virtio_console, from modules\n"), "{text}");
    assert!(text.contains("results         loaded          its module is loaded first"), "{text}");
    put(dir, &without.replace("CONFIG_VIRTIO_CONSOLE=m", ""));
    let output = call(dir, &["check", "vmlinux", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status(&output), Some(125), "{found}");
    assert_eq!((&found["verdict"], &found["exit_status"]), (&"cannot-run".into(), &125.into()));
    let needs = found["needs"].as_array().expect("needs");
    let results = needs.iter().find(|need| need["name"] == "results").expect("results");
    assert_eq!((&results["state"], &results["required"]), (&"missing".into(), &true.into()));
    assert_eq!(results["lacking"], serde_json::json!(["CONFIG_VIRTIO_CONSOLE"]));
    assert_eq!(found["kernel"]["release"], "6.12.1-made");
    assert_eq!(found["kernel"]["config_source"], "config");
    // For virtual machines only.
    put(dir, &complete.replace("CONFIG_KVM=y\n", ""));
    assert_eq!(status(&call(dir, &["check", "vmlinux"])), Some(0));
    assert_eq!(status(&call(dir, &["check", "vmlinux", "--nested"])), Some(125));
}

fn an_unknown_configuration_is_said() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    // What drivers leave in an image; tracers' texts prove nothing.
    let image = b"\0Linux version 6.12.1-made (tester) #1 SMP\n\0LNRO0005\0virtio_console\0\
                  Initramfs unpacking failed\0hwlat\0timerlat\0";
    fs::write(dir.join("bzImage"), flat_kernel(0x100_0000, image)).expect("written");
    let output = call(dir, &["check", "bzImage"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(status(&output), Some(1), "{text}");
    assert!(text.contains("configuration not known"), "{text}");
    let row = |name: &str| text.lines().find(|line| line.starts_with(name)).expect("a row");
    assert!(row("results").contains("there"), "{text}");
    assert!(row("hwlat meter").contains("cannot be told"), "{text}");
    let bare = flat_kernel(0x100_0000, b"\0Linux version 6.12.1-made (tester) #1 SMP\n\0");
    fs::write(dir.join("bzImage"), bare).expect("written");
    let output = call(dir, &["check", "bzImage"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(status(&output), Some(125), "{text}");
    // It may be a module of a kernel whose modules lie elsewhere.
    let told =
        "results         not built in    give --modules if it is a module, else it cannot run";
    assert!(text.contains(told), "{text}");
}

fn a_package_is_looked_into() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let config = complete(dir);
    let kernel = kernel_of(&config);
    let files =
        [("boot/vmlinuz-6.12.1-made", &kernel[..]), ("boot/config-6.12.1-made", config.as_bytes())];
    fs::write(dir.join("linux-image.deb"), deb(&files)).expect("written");
    let output = call(dir, &["check", "linux-image.deb", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status(&output), Some(0), "{found}");
    assert_eq!(found["kernel"]["inside"], serde_json::json!([files[0].0]));
    assert_eq!(
        found["kernel"]["config_source"],
        format!("linux-image.deb: {}", files[1].0).as_str()
    );
    // Unpacked into a folder it is the same.
    fs::create_dir_all(dir.join("unpacked/boot")).expect("made");
    for (path, bytes) in files {
        fs::write(dir.join("unpacked").join(path), bytes).expect("written");
    }
    let output = call(dir, &["check", "unpacked", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status(&output), Some(0), "{found}");
    assert_eq!(found["kernel"]["path"], "unpacked/boot/vmlinuz-6.12.1-made");
    assert_eq!(found["kernel"]["config_source"], "unpacked/boot/config-6.12.1-made");
}

fn a_build_tree_is_named_by_its_folder() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let config = complete(dir);
    fs::create_dir_all(dir.join("arch/x86/boot")).expect("made");
    fs::write(dir.join("arch/x86/boot/bzImage"), kernel_of(&config)).expect("written");
    fs::write(dir.join(".config"), config).expect("written");
    let output = call(dir, &["check", ".", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status(&output), Some(0), "{found}");
    assert_eq!(found["kernel"]["path"], "./arch/x86/boot/bzImage");
    let source = found["kernel"]["config_source"].as_str().expect("a source");
    let source = dir.join(source).canonicalize().expect("a file");
    assert_eq!(source, dir.join(".config").canonicalize().expect("a file"));
}

fn what_is_no_kernel_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let write = |path: &str, bytes: &[u8]| {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    };
    write("tree/.config", b"CONFIG_64BIT=y\nCONFIG_SMP=y\n");
    write("two/boot/vmlinuz-6.1", &kernel());
    write("two/boot/vmlinuz-6.12", &[kernel(), vec![0]].concat());
    write("empty/notes", b"");
    write("modules.deb", &deb(&[("lib/modules/6.1/kernel/fs/x.ko", b"ELF")]));
    write("packages/linux-image-6.1_1_amd64.deb", b"!<arch>");
    write("two.deb", &deb(&[("boot/vmlinuz-6.1", b"a"), ("boot/vmlinuz-7.3", b"b")]));
    write("cut.deb", &deb(&[("boot/vmlinuz-6.1", &kernel())])[..150]);
    write("text.deb", &deb(&[("boot/vmlinuz-6.1", b"This is no kernel.")]));
    let mut arm = kernel();
    arm[18] = 183;
    write("arm", &arm);
    arm[18] = 3;
    arm[4] = 1;
    write("narrow", &arm);
    // Longer than a block of zstd, of which nothing comes out before its end.
    let long = zstd::bulk::compress(&flat_kernel(0x100_0000, &[7; 400_000]), 1).expect("zstd");
    write("cut.zst", &long[..long.len() - 5]);
    for (named, expected, told) in [
        ("tree", 200, &["tree is a build tree", "run `make bzImage`"][..]),
        ("two", 200, &["several kernels", "two/boot/vmlinuz-6.1,", "two/boot/vmlinuz-6.12"]),
        ("two.deb", 200, &["several kernels: boot/vmlinuz-6.1, boot/vmlinuz-7.3"]),
        ("empty", 200, &["empty is a folder: give the bzImage"]),
        ("packages", 200, &["packages is a folder of packages: name the one with"]),
        ("modules.deb", 200, &["modules.deb has no kernel in it: 1 module", "linux-image-*"]),
        ("cut.deb", 125, &["cut.deb cannot be read", "copy it again"]),
        ("text.deb", 200, &["this is a text file"]),
        ("arm", 200, &["arm64"]),
        ("narrow", 125, &["32-bit"]),
        ("cut.zst", 125, &["damaged: it is packed (zstd)"]),
        ("0.0.1-none", 200, &["no kernel 0.0.1-none is installed", "/boot/vmlinuz-0.0.1-none"]),
        ("missing", 200, &["there is no kernel missing; name a file, a folder"]),
    ] {
        let output = call(dir, &["check", named]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(status(&output), Some(expected), "{named}: {output:?}");
        assert!(told.iter().all(|told| text.contains(told)), "{named}: {text}");
        assert!(output.stdout.is_empty(), "{named}: {output:?}");
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What the program says to a user who is not root, in a folder that has a copy of it.
fn call_as_nobody(dir: &Path, words: &[&str]) -> Output {
    const NOBODY: u32 = 65_534;
    // Its own copy: the build's folder may be out of its reach. Not made by this process: a child
    // that another case forks meanwhile would have it open for writing, and it could not start.
    let program = dir.join("schedvmm");
    if !program.exists() {
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_schedvmm")).arg(&program).status();
        assert!(copied.is_ok_and(|status| status.success()), "no copy at {}", program.display());
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("permitted");
    }
    let mut command = Command::new(&program);
    command.args(words).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    finish(command.spawn().expect("it starts"))
}

/// Takes what is at `path` away from users who are not root, or from the one that this is; returns
/// its mode.
fn keep(path: &Path, mode: u32) -> u32 {
    let mode = if is_root() { mode } else { 0 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permitted");
    mode
}

fn a_file_of_somebody_else_says_how_to_read_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let kept = dir.join("vmlinuz");
    fs::write(&kept, kernel()).expect("written");
    let mode = keep(&kept, 0o600);
    for words in [["check", "vmlinuz"], ["--kernel", "vmlinuz"]] {
        let output = call_as_nobody(dir, &words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(status(&output), Some(200), "{text}");
        assert!(text.contains(&format!("its mode is {mode:04o}")), "{text}");
        assert!(text.contains("`sudo install -m 644 vmlinuz NEW`"), "{text}");
    }
}

fn a_folder_of_somebody_else_is_not_told_to_be_empty() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let boot = dir.join("root/boot");
    fs::create_dir_all(&boot).expect("made");
    fs::write(boot.join("vmlinuz-6.12.1-made"), kernel()).expect("written");
    // One that cannot be looked into, and one whose names can be read, and no more.
    for mode in [0o700, 0o744] {
        let mode = keep(&boot, mode);
        let kernel = "root/boot/vmlinuz-6.12.1-made";
        for (named, next) in
            [("root/boot", "root/boot/KERNEL"), ("root", "root/boot/KERNEL"), (kernel, kernel)]
        {
            let output = call_as_nobody(dir, &["check", named]);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(status(&output), Some(200), "{named}: {text}");
            let told = format!("kernel in root/boot: its mode is {mode:04o}, which leaves");
            assert!(text.contains(&told), "{named}: {text}");
            let next = format!("`sudo install -m 644 {next} NEW`");
            assert!(text.contains(&next), "{named}: {text}");
        }
    }
    // So that it can be removed.
    fs::set_permissions(&boot, fs::Permissions::from_mode(0o755)).expect("permitted");
}

fn a_package_of_somebody_else_that_is_not_needed_is_left_out() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let config = complete(dir);
    let kernel = kernel_of(&config);
    let files =
        [("boot/vmlinuz-6.12.1-made", &kernel[..]), ("boot/config-6.12.1-made", config.as_bytes())];
    let image = "linux-image-6.12.1-made_1_amd64.deb";
    fs::write(dir.join(image), deb(&files)).expect("written");
    let other = "linux-modules-6.12.1-made_1_amd64.deb";
    fs::write(dir.join(other), deb(&[])).expect("written");
    keep(&dir.join(other), 0o600);
    let output = call_as_nobody(dir, &["check", image]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(status(&output), Some(0), "{output:?}");
    assert!(text.contains(&format!("note          {other} is left out: ")), "{text}");
}

fn a_build_tree_of_somebody_else_is_not_told_to_be_built() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let arch = dir.join("bt/arch");
    fs::create_dir_all(arch.join("x86/boot")).expect("made");
    fs::write(dir.join("bt/.config"), "CONFIG_64BIT=y\nCONFIG_SMP=y\n").expect("written");
    fs::write(arch.join("x86/boot/bzImage"), kernel()).expect("written");
    let mode = keep(&arch, 0o700);
    let output = call_as_nobody(dir, &["check", "bt"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(status(&output), Some(200), "{text}");
    let told = format!("cannot look for a kernel in bt/arch: its mode is {mode:04o}");
    assert!(text.contains(&told), "{text}");
    fs::set_permissions(&arch, fs::Permissions::from_mode(0o755)).expect("permitted");
}

/// As where a distribution keeps the one of /boot from users other than root.
fn a_copy_that_can_be_read_is_taken() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let copy = "lib/modules/6.12.1-made/vmlinuz";
    for path in ["root/boot", "root/lib/modules/6.12.1-made"] {
        fs::create_dir_all(dir.join(path)).expect("made");
    }
    let kept = dir.join("root/boot/vmlinuz-6.12.1-made");
    for path in [&kept, &dir.join("root").join(copy)] {
        fs::write(path, kernel()).expect("written");
    }
    keep(&kept, 0o600);
    let output = call_as_nobody(dir, &["check", "root", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["kernel"]["path"], format!("root/{copy}"), "{found:#}");
}

fn what_lies_beside_says_why_it_is_not_read() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    put(dir, "CONFIG_64BIT=y\nCONFIG_SMP=y\n");
    fs::create_dir(dir.join("modules")).expect("made");
    fs::write(dir.join("modules/virtio_console.ko"), files::module("", "6.12.1-made")).expect("it");
    fs::write(dir.join("modules.deb"), deb(&[])).expect("written");
    for (kept, words) in [
        ("config", &["check", "vmlinux"][..]),
        ("modules/virtio_console.ko", &["check", "vmlinux", "--modules", "modules"]),
        ("modules.deb", &["check", "vmlinux", "--modules", "modules.deb"]),
    ] {
        let mode = keep(&dir.join(kept), 0o600);
        let output = call_as_nobody(dir, words);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let told = format!("its mode is {mode:04o}, which leaves this user out: copy it");
        assert!(text.contains(kept) && text.contains(&told), "{kept}: {text}");
        fs::set_permissions(dir.join(kept), fs::Permissions::from_mode(0o644)).expect("permitted");
    }
}

fn lists_of_another_kernel_are_not_believed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let builtin = "kernel/virtio_mmio.ko\nkernel/virtio_console.ko\n";
    fs::write(dir.join("vmlinux"), kernel()).expect("written");
    let theirs = dir.join("other/lib/modules/7.3-other");
    fs::create_dir_all(&theirs).expect("made");
    fs::write(theirs.join("modules.builtin"), builtin).expect("written");
    for named in ["other", "other/lib/modules/7.3-other"] {
        for words in [&["check", "vmlinux"][..], &["--kernel", "vmlinux"]] {
            let output = call(dir, &[words, &["--modules", named]].concat());
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(status(&output), Some(200), "{named}: {text}");
            assert!(text.contains("is of kernel 7.3-other, and the kernel to be"), "{text}");
        }
    }
    // Beside the kernel nothing says whose they are, and the image does.
    fs::write(dir.join("modules.builtin"), builtin).expect("written");
    let output = call(dir, &["check", "vmlinux"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(status(&output), Some(125), "{text}");
    let told = "have virtio_mmio, virtio_console built in, and this kernel has not: they are of";
    assert!(text.contains(told), "{text}");
    // What is not in the modules that were named is not asked for again.
    fs::remove_file(dir.join("modules.builtin")).expect("removed");
    fs::create_dir(dir.join("usr")).expect("made");
    fs::write(dir.join("usr/tutor.ko"), "no module").expect("written");
    let output = call(dir, &["check", "vmlinux", "--modules", "usr"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("results         not built in    its module is not in usr: "), "{text}");
}

fn the_transport_is_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let told = |words: &[&str]| {
        let output = call(dir, &[&["check", "vmlinux", "--json"], words].concat());
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (status(&output), found["kernel"]["transport"].clone(), found["verdict"].clone())
    };
    let image = |texts: &str| {
        let text = format!("\0Linux version 6.12.1-made (tester) #1 SMP\n\0{texts}\0");
        fs::write(dir.join("vmlinux"), flat_kernel(0x100_0000, text.as_bytes())).expect("written");
    };
    let pci = "CONFIG_PCI=y\nCONFIG_PCI_MSI=y\nCONFIG_VIRTIO_PCI=y\n";
    let (complete, runs) = (complete(dir) + pci, Value::from("complete"));
    put(dir, &complete);
    image("LNRO0005\0virtio-pci\0virtio_console\0Initramfs unpacking failed");
    assert_eq!(told(&[]), (Some(0), "mmio".into(), runs.clone()));
    assert_eq!(told(&["--transport", "pci"]), (Some(0), "pci".into(), runs.clone()));
    let output = call(dir, &["check", "vmlinux"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\ntransport     mmio\n"), "{text}");
    put(dir, &complete.replace("CONFIG_VIRTIO_MMIO=y\n", ""));
    image("virtio-pci\0virtio_console\0Initramfs unpacking failed");
    assert_eq!(told(&[]), (Some(0), "pci".into(), runs));
    let refused = (Some(125), Value::Null, "cannot-run".into());
    assert_eq!(told(&["--transport", "mmio"]), refused);
    // Without a configuration nothing tells of ACPI, and the verdict does not say that it runs.
    fs::remove_file(dir.join("config")).expect("removed");
    image("virtio-pci\0virtio_console\0Initramfs unpacking failed");
    assert_eq!(told(&[]), (Some(1), "pci".into(), "cannot-be-told".into()));
    let output = call(dir, &["check", "vmlinux"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("cannot be told  if it is missing: it cannot run: it has no"), "{text}");
    let verdict = "nothing says that the main job cannot run; processors, command line, devices, user \
                   space cannot be told";
    assert!(text.trim_end().ends_with(verdict), "{text}");
}

fn the_main_job_takes_the_same_names() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    fs::create_dir_all(dir.join("tree/arch")).expect("made");
    fs::write(dir.join("tree/.config"), "CONFIG_64BIT=y\nCONFIG_SMP=y\n").expect("written");
    fs::write(dir.join("modules.deb"), deb(&[("lib/modules/6.1/kernel/x.ko", b"ELF")]))
        .expect("written");
    fs::write(dir.join("vmlinux"), kernel()).expect("written");
    let mut arm = kernel();
    arm[18] = 183;
    fs::write(dir.join("arm"), arm).expect("written");
    for (words, told) in [
        // Whatever this host has.
        (&["--kernel", "vmlinux", "--nested", "--l2-kernel", "arm"][..], "arm64"),
        (&["--kernel", "tree"], "run `make bzImage`"),
        (&["--kernel", "modules.deb"], "has no kernel in it"),
        (&["--kernel", "0.0.1-none"], "no kernel 0.0.1-none is installed"),
    ] {
        let output = call(dir, words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(status(&output), Some(200), "{words:?}: {text}");
        assert!(text.contains(told) && !dir.join("results").exists(), "{words:?}: {text}");
    }
}
