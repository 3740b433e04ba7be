// SPDX-License-Identifier: Apache-2.0
//! The table of bad input: each with its exit status, and a message that has the value, the
//! reason and the next step. None of these runs reaches a guest's first instruction.

use std::path::Path;
use std::time::Duration;

use crate::case::{Case, main_job};
use crate::kernels;
use crate::lab::{Group, Preparation, TestKernel};

/// Nothing here waits for a guest but the probe.
const LIMIT: Duration = Duration::from_secs(30);

/// What is bad, a shell command, the status, and words that one line of stderr must have.
type Row = (&'static str, &'static str, u8, &'static [&'static str]);

/// Kernel files, made by [`prepare`] in `/tmp`.
const KERNELS: [Row; 19] = [
    ("missing", "/no/such/bzImage", 200, &["no kernel /no/such/bzImage", "name a file"]),
    ("directory", "/tmp", 200, &["/tmp is a folder", "give the bzImage"]),
    ("empty", "/tmp/empty", 125, &["/tmp/empty", "empty", "give a bzImage or a vmlinux"]),
    ("text", "/tmp/text", 200, &["/tmp/text", "this is a text file", "give a bzImage"]),
    ("truncated", "/tmp/half", 125, &["/tmp/half", "truncated", "2000000", "copy it again"]),
    ("header_only", "/tmp/stump", 125, &["/tmp/stump", "truncated", "copy it again"]),
    ("narrow", "/tmp/narrow", 125, &["/tmp/narrow", "32-bit", "CONFIG_64BIT=y"]),
    ("old_protocol", "/tmp/old", 125, &["/tmp/old", "boot protocol 2.10", "Linux 3.8"]),
    ("payload_lies", "/tmp/lies", 125, &["/tmp/lies", "payload", "4096"]),
    ("payload_too_long", "/tmp/long", 125, &["/tmp/long", "truncated", "payload"]),
    ("payload_damaged", "/tmp/damaged", 125, &["/tmp/damaged", "payload"]),
    ("program", "/bin/busybox", 125, &["/bin/busybox"]),
    ("other_machine", "/tmp/arm", 200, &["/tmp/arm", "machine 183", "x86-64"]),
    ("no_console", "/tmp/no_console", 125, &["virtio console", "CONFIG_VIRTIO_CONSOLE=y"]),
    ("no_virtio", "/tmp/no_virtio", 125, &["CONFIG_VIRTIO_MMIO=y", "CONFIG_VIRTIO_PCI=y"]),
    ("no_mmio", "/tmp/no_mmio --transport mmio", 125, &["--transport mmio", "VIRTIO_MMIO=y"]),
    ("no_pci", "/tmp/no_pci --transport pci", 125, &["--transport pci", "CONFIG_PCI_MSI=y"]),
    ("no_initrd", "/tmp/no_initrd", 125, &["initramfs", "CONFIG_BLK_DEV_INITRD=y"]),
    ("no_smp", "/tmp/no_smp", 125, &["one CPU only", "CONFIG_SMP=y"]),
];

/// The first of them exists.
const ABSENT_EVENT: &str = "--trace-events sched,sched:such_a_thing";

/// Options of the main job.
const OPTIONS: [Row; 24] = [
    ("memory_too_small", "--memory 32M", 200, &["32 MiB", "raise --memory"]),
    ("memory_tiny", "--memory 1M --records 100", 200, &["1 MiB", "give 32"]),
    ("memory_without_unit", "--memory 4", 200, &["4", "--memory", "unit"]),
    ("cmdline_too_long", "--append $(printf %4000s | tr ' ' x)", 200, &["shorten --append"]),
    ("cmdline_not_ascii", "--append \u{e4}", 200, &["printable ASCII"]),
    ("cpus_many", "--cpus 255", 200, &["255", "give 1 to 254"]),
    ("cpus_none", "--cpus 0", 200, &["0 vCPUs", "give 1 to 254"]),
    ("cpus_odd", "--cpus 3", 200, &["3 vCPUs", "cores of 2 threads"]),
    ("pin_absent_cpu", "--pin 4096,4097,4098,4099", 200, &["host CPU 409"]),
    ("pin_too_few", "--pin 0,1", 200, &["2 host CPUs", "4 vCPUs"]),
    ("pin_no_list", "--pin x", 200, &["--pin", "x"]),
    ("load_cpus_absent", "--load-cpus 9", 200, &["--load-cpus", "9", "0 to 3"]),
    ("groups_none", "--groups 0", 200, &["--groups", "give 1 to 4096 threads"]),
    ("threads_many", "--groups 4000000000 --threads 4000000000", 200, &["--groups"]),
    ("duration_without_unit", "--duration 5", 200, &["5", "--duration", "unit"]),
    ("sleep_backwards", "--sleep uniform:2s-1s", 200, &["2s-1s", "minimum"]),
    ("cosched_unknown", "--cosched magic", 200, &["magic", "--cosched"]),
    ("tune_unknown", "--tune nonsense=1", 200, &["nonsense"]),
    ("option_unknown", "--nonsense", 200, &["--nonsense"]),
    ("json_and_compat", "--json --compat", 200, &["--json", "--compat"]),
    ("tune_absent", "--tune latency=5ms", 125, &["latency=5ms", "this kernel has EEVDF"]),
    ("trace_event_absent", ABSENT_EVENT, 125, &["no event `sched:such_a_thing`"]),
    ("trace_event_no_name", "--trace-events sched,a:b:c", 200, &["a:b:c", "system:event"]),
    ("trace_file_unwritable", "--trace-file /no/such/dir/log", 200, &["/no/such/dir/log"]),
];

/// Result folders; the whole option.
const FOLDERS: [Row; 4] = [
    ("folder_not_empty", "--output /bin", 200, &["/bin", "not empty", "--output"]),
    ("folder_under_a_file", "--output /tmp/text/r", 200, &["/tmp/text/r", "Not a directory"]),
    ("folder_read_only", "--output /tmp/ro/r", 200, &["/tmp/ro/r", "Read-only"]),
    ("folder_no_space", "--output /tmp/none/r", 201, &["/tmp/none", "No space"]),
];

/// All of the table.
pub fn group() -> Group {
    let kernel = |kernel: &str| format!("schedvmm --kernel {kernel} --output r");
    let folder = |folder: &str| format!("schedvmm --kernel /bzImage {folder}");
    let mut cases = vec![case(("no_arguments", "", 200, &["--kernel"]), "schedvmm".into())];
    cases.extend(KERNELS.map(|row| case(row, kernel(row.1))));
    cases.extend(OPTIONS.map(|row| case(row, main_job(row.1))));
    cases.extend(FOLDERS.map(|row| case(row, folder(row.1))));
    Group::new("bad_input", TestKernel::V612, cases).prepared(prepare)
}

fn case((name, _, status, words): Row, script: String) -> Case {
    let case = Case::new(name, script, move |outcome| {
        outcome.assert_status(status);
        // clap explains over several lines.
        outcome.assert_explains(words);
        println!("     {}", outcome.stderr.trim().replace('\n', " "));
    });
    case.within(LIMIT)
}

/// Makes the bad files.
fn prepare(bzimage: &Path) -> Result<Preparation, String> {
    let image = kernels::read(bzimage)?;
    let path = kernels::vmlinux(bzimage)?;
    let vmlinux = kernels::read(&path)?;
    let payload = kernels::payload(&image)?;
    let of_bzimage = |copy: &str, changes: &[(u64, &[u8])]| {
        kernels::patched("/bzImage", &format!("/tmp/{copy}"), changes)
    };
    let lacking = |copy: &str, texts: &[&str]| {
        kernels::lacking(&vmlinux, "/vmlinux", &format!("/tmp/{copy}"), texts)
    };
    let script = [
        "touch /tmp/empty\necho 'This is a text, and no kernel.' > /tmp/text\n".into(),
        "head -c 2000000 /bzImage > /tmp/half\nhead -c 520 /bzImage > /tmp/stump\n".into(),
        "mkdir /tmp/ro; mount -t tmpfs -o ro none /tmp/ro\n".into(),
        "mkdir /tmp/none; mount -t tmpfs -o nr_inodes=1 none /tmp/none\n".into(),
        // Offsets in the boot header are those of boot.rst.
        of_bzimage("narrow", &[(0x236, &[0, 0])]),
        of_bzimage("old", &[(0x206, &[0x0a, 0x02])]),
        of_bzimage("long", &[(0x24c, &[0xff, 0xff, 0xff, 0x7f])]),
        // The size after unpacking is in the last four bytes (scripts/Makefile.lib, size_append).
        of_bzimage("lies", &[(payload.end - 4, &4096u32.to_le_bytes())]),
        of_bzimage("damaged", &[(payload.start + (payload.end - payload.start) / 2, &[0xff; 64])]),
        // Offset 18 of an ELF file is its machine; 183 is AArch64.
        kernels::patched("/vmlinux", "/tmp/arm", &[(18, &[183, 0])]),
        lacking("no_console", &["virtio_console"]),
        lacking("no_virtio", &[kernels::MMIO_DRIVER, kernels::PCI_DRIVER]),
        lacking("no_mmio", &[kernels::MMIO_DRIVER]),
        lacking("no_pci", &[kernels::PCI_DRIVER]),
        lacking("no_initrd", &["Initramfs unpacking failed"]),
        // The banner says it.
        lacking("no_smp", &[" SMP"]),
    ];
    Ok(Preparation {
        files: vec![("/vmlinux".into(), path)],
        script: script.concat(),
        ..Preparation::default()
    })
}
