// SPDX-License-Identifier: Apache-2.0
//! Kernel files that lie: each is refused with a typed error or loaded, in bounded time,
//! without a panic, and without a byte below 1 MiB, where the boot structures are.
//!
//! The files are made here. With `SCHEDVMM_TEST_KERNEL_612` set to a bzImage, that is bent
//! as well.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, fs, mem, thread};

use libtest_mimic::{Arguments, Completion, Trial};
use vmm::boot_ram::BootRam;
use vmm::config::BootMethod;
use vmm::load;
use vmm::x86_64::image::KernelImage;
use vmm::x86_64::lint::Wanted;

mod hostile;

use hostile::{ELF_HEADERS, bzimage, elf, noise, pack};

/// Names a real bzImage.
const KERNEL: &str = "SCHEDVMM_TEST_KERNEL_612";
/// CPU time one file may cost.
const CPU_LIMIT: Duration = Duration::from_secs(2);
/// After this time on a busy host, it hangs.
const HANG: Duration = Duration::from_secs(60);
/// What a test may take in all; mutations beyond it are left out, and that is said.
const BUDGET: Duration = Duration::from_secs(60);
const LOW: usize = 1 << 20;
const PATTERN: u8 = 0xa5;
/// Setup header of a bzImage with what lies around it.
const SETUP_HEADER: Range<usize> = 0x1f0..0x26c;

/// Loads bent files into one guest memory and watches.
struct Bench {
    /// Away while a file is tried.
    ram: Option<BootRam>,
    untouched: Vec<u8>,
    begin: Instant,
    tried: u32,
    loaded: u32,
    left_out: u32,
    slowest: Duration,
}

impl Bench {
    fn new(memory_mib: u64) -> Self {
        let mut ram = BootRam::allocate(memory_mib).expect("memory");
        ram.low_mut()[..LOW].fill(PATTERN);
        Self {
            ram: Some(ram),
            untouched: vec![PATTERN; LOW],
            begin: Instant::now(),
            tried: 0,
            loaded: 0,
            left_out: 0,
            slowest: Duration::ZERO,
        }
    }

    /// Tries one file every way in.
    fn try_file(&mut self, what: &str, file: &[u8]) {
        if self.begin.elapsed() > BUDGET {
            self.left_out += 1;
            return;
        }
        // A bare ELF file has one way in.
        let methods = if file.starts_with(b"\x7fELF") { 1 } else { 2 };
        for method in [BootMethod::Payload, BootMethod::Stub].into_iter().take(methods) {
            let (mut ram, file) = (self.ram.take().expect("no file is being tried"), file.to_vec());
            let (done, outcome) = mpsc::channel();
            let worker = thread::spawn(move || {
                let outcome = load_all(file, method, &mut ram);
                done.send((ram, outcome))
            });
            let (ram, (loaded, cpu)) = match outcome.recv_timeout(HANG) {
                Ok(outcome) => outcome,
                Err(RecvTimeoutError::Timeout) => panic!("{what}, {method:?}: hangs"),
                Err(RecvTimeoutError::Disconnected) => panic!("{what}, {method:?}: panicked"),
            };
            // It has sent its outcome, so it ends.
            let _ = worker.join();
            assert!(cpu <= CPU_LIMIT, "{what}, {method:?}: took {cpu:?}");
            assert!(ram.low()[..LOW] == self.untouched, "{what}, {method:?}: wrote below 1 MiB");
            self.ram = Some(ram);
            self.tried += 1;
            self.loaded += u32::from(loaded);
            self.slowest = self.slowest.max(cpu);
        }
    }

    fn finish(self, name: &str) {
        let Self { tried, loaded, left_out, slowest, .. } = self;
        let took = self.begin.elapsed();
        println!("{name}: {tried} loads in {took:.1?}, {loaded} accepted, slowest {slowest:?}");
        if left_out > 0 {
            println!("SKIP {left_out} files of {name}: {BUDGET:?} are over");
        }
        assert!(tried > 0);
    }
}

/// All that reads a kernel file or what was made of it. Returns whether it was loaded, and
/// the CPU time.
fn load_all(file: Vec<u8>, method: BootMethod, ram: &mut BootRam) -> (bool, Duration) {
    let loaded = (|| {
        let image = KernelImage::parse(file).ok()?;
        image.version();
        let kernel = load::kernel(&image, method, ram).ok()?;
        // Any answer will do, as long as there is one.
        let _ = kernel.lint(ram, Wanted { cpus: 4, ..Wanted::default() });
        let _ = load::initrd(&[1; 5000], &kernel, ram);
        Some(())
    })();
    (loaded.is_some(), thread_cpu_time())
}

fn thread_cpu_time() -> Duration {
    // SAFETY: all-zero is a valid timespec.
    let mut time: libc::timespec = unsafe { mem::zeroed() };
    // SAFETY: `time` is valid for writes.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Duration::from_secs(seconds) + Duration::from_nanos(nanos)
}

/// `file` cut at `points` places, evenly, its own length left out.
fn truncations(bench: &mut Bench, file: &[u8], points: usize) {
    for n in 0..points {
        let len = file.len() * n / points;
        bench.try_file(&format!("cut to {len}"), &file[..len]);
    }
    bench.try_file("cut by one", &file[..file.len() - 1]);
}

/// Every `step`th bit of `range` flipped, one a file.
fn flips(bench: &mut Bench, file: &[u8], range: Range<usize>, step: usize) {
    for bit in (range.start * 8..range.end * 8).step_by(step) {
        let mut bent = file.to_vec();
        bent[bit / 8] ^= 1 << (bit % 8);
        bench.try_file(&format!("bit {} of byte {:#x} flipped", bit % 8, bit / 8), &bent);
    }
}

/// Every 2, 4 and 8 bytes of `range` set to values that overflow something.
fn extremes(bench: &mut Bench, file: &[u8], range: Range<usize>) {
    let values = [0u64, 1, 0x7fff_ffff_ffff_ffff, u64::MAX, 1 << 63, u64::MAX - 0xfff];
    for at in range.clone().step_by(2) {
        for len in [2, 4, 8].into_iter().filter(|len| at + len <= range.end) {
            for value in values {
                let mut bent = file.to_vec();
                // The upper end of a value: the lower is often all ones or all zeros.
                bent[at..at + len].copy_from_slice(&value.to_le_bytes()[8 - len..]);
                bench.try_file(&format!("{len} bytes at {at:#x} from {value:#x}"), &bent);
            }
        }
    }
}

/// `count` bytes somewhere in `range` changed, one a file, always the same ones.
fn payload_flips(bench: &mut Bench, file: &[u8], range: Range<usize>, count: usize) {
    for n in 0..count {
        let at = range.start + (range.len() * n / count + n * 7919 % 64).min(range.len() - 1);
        let mut bent = file.to_vec();
        bent[at] ^= [0x01, 0x80, 0xff, 0x10][n % 4];
        bench.try_file(&format!("payload byte {at:#x} changed"), &bent);
    }
}

fn main() -> ExitCode {
    let tests: [(&str, fn()); 4] = [
        ("bent_elf_files", bent_elf_files_are_refused_or_loaded),
        ("bent_elf_files_inside_a_payload", bent_elf_files_inside_a_payload_are_refused_or_loaded),
        ("bent_bzimages", bent_bzimages_are_refused_or_loaded),
        ("lies_that_agree_with_each_other", lies_that_agree_with_each_other_are_refused_or_loaded),
    ];
    let mut trials: Vec<_> = tests
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    let kernel = env::var(KERNEL).ok();
    let missing = kernel.is_none();
    let real = Trial::ignorable_test("a_bent_real_kernel", || {
        let Some(kernel) = kernel else {
            return Ok(Completion::ignored_with(format!("{KERNEL} names no bzImage")));
        };
        a_bent_real_kernel_is_refused_or_loaded(&kernel);
        Ok(Completion::Completed)
    });
    // Marked as well: some runners list tests first and run one each.
    trials.push(real.with_ignored_flag(missing));
    let arguments = Arguments::from_args();
    if missing && !arguments.list {
        eprintln!("SKIP a_bent_real_kernel: {KERNEL} names no bzImage");
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn bent_elf_files_are_refused_or_loaded() {
    let file = elf(&noise(64 << 10));
    let mut bench = Bench::new(64);
    bench.try_file("as it is", &file);
    assert_eq!(bench.loaded, 1, "the file is good before it is bent");
    truncations(&mut bench, &file, 200);
    flips(&mut bench, &file, 0..ELF_HEADERS, 1);
    extremes(&mut bench, &file, 16..ELF_HEADERS);
    bench.finish("ELF file");
}

fn bent_elf_files_inside_a_payload_are_refused_or_loaded() {
    let good = elf(&noise(16 << 10));
    let mut bench = Bench::new(64);
    for bit in 0..ELF_HEADERS * 8 {
        let mut bent = good.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        let what = format!("bit {} of byte {:#x} of the ELF flipped", bit % 8, bit / 8);
        bench.try_file(&what, &bzimage(&pack("lz4", &bent)));
    }
    for len in (0..good.len()).step_by(good.len() / 50) {
        bench.try_file(&format!("ELF cut to {len}"), &bzimage(&pack("lz4", &good[..len])));
    }
    bench.finish("ELF file in a payload");
}

fn bent_bzimages_are_refused_or_loaded() {
    let good = elf(&noise(256 << 10));
    for format in ["gzip", "xz", "lzma", "lz4", "zstd"] {
        let file = bzimage(&pack(format, &good));
        let mut bench = Bench::new(64);
        bench.try_file("as it is", &file);
        assert_eq!(bench.loaded, 2, "{format}: the file is good before it is bent");
        truncations(&mut bench, &file, 200);
        let payload = 5 * 512..file.len();
        payload_flips(&mut bench, &file, payload.clone(), 200);
        extremes(&mut bench, &file, payload.end - 8..payload.end);
        extremes(&mut bench, &file, payload.start..payload.start + 16);
        if format == "lz4" {
            flips(&mut bench, &file, SETUP_HEADER, 1);
            extremes(&mut bench, &file, SETUP_HEADER);
        }
        bench.finish(format);
    }
}

fn lies_that_agree_with_each_other_are_refused_or_loaded() {
    /// Offsets of pref_address and init_size in a bzImage (boot.rst).
    const PREF_ADDRESS: usize = 0x258;
    const INIT_SIZE: usize = 0x260;
    let good = bzimage(&pack("lz4", &elf(&noise(16 << 10))));
    let mut bench = Bench::new(64);
    let addresses = [0, 0x10_0000, 0x20_0000, 63 << 20, 1 << 30, 1 << 32, u64::MAX - (2 << 20)];
    for address in addresses.into_iter().chain([u64::MAX - 1, u64::MAX]) {
        for init_size in [0, 1, 0x400_0000, u32::MAX] {
            for claimed in [0, 1, 0x10_0000, 0x3f0_0000, 0x400_0000, i32::MAX as u32, u32::MAX] {
                let mut bent = good.clone();
                let last = bent.len() - 4;
                bent[PREF_ADDRESS..INIT_SIZE].copy_from_slice(&address.to_le_bytes());
                bent[INIT_SIZE..INIT_SIZE + 4].copy_from_slice(&init_size.to_le_bytes());
                bent[last..].copy_from_slice(&claimed.to_le_bytes());
                let what =
                    format!("at {address:#x}, needs {init_size:#x}, unpacks to {claimed:#x}");
                bench.try_file(&what, &bent);
            }
        }
    }
    bench.finish("lies that agree");
}

fn a_bent_real_kernel_is_refused_or_loaded(path: &str) {
    let file = fs::read(path).expect("the kernel is readable");
    let Ok(KernelImage::BzImage(image)) = KernelImage::parse(file.clone()) else {
        panic!("{path} is no bzImage")
    };
    let mut bench = Bench::new(256);
    bench.try_file("as it is", &file);
    assert_eq!(bench.loaded, 2, "the kernel is good before it is bent");
    truncations(&mut bench, &file, 200);
    payload_flips(&mut bench, &file, image.payload, 60);
    // A prime step meets every bit position.
    flips(&mut bench, &file, SETUP_HEADER, 7);
    bench.finish("real kernel");
}
