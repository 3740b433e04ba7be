// SPDX-License-Identifier: Apache-2.0
//! Ways to configure a kernel, and what becomes of each of its builds.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::config;
use super::series::Series;
use super::{IMAGE, OWN_CMDLINE_IMAGE};
use crate::{artifacts, process, project};

/// Raised when the build itself changes, so that kernels built the older way are not reused.
const REVISION: &str = "1";
/// What makes a kernel run with a command line of its own, whatever its boot loader says.
const OWN_CMDLINE: &str = "CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE_OVERRIDE=y\n\
                           CONFIG_CMDLINE=\"console=hvc0 panic=-1\"\n";
/// What makes the test kernel like one of the Red Hat family, as far as its devices go: only
/// virtio-pci is built in, and the console's driver is a module.
const REDHAT: &str = "CONFIG_MODULES=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_VIRTIO_MMIO=n\n\
                      CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=n\nCONFIG_VIRTIO_CONSOLE=m\n";
/// The same kernel with that driver built in.
const CONSOLE_BUILT_IN: &str = "CONFIG_VIRTIO_CONSOLE=y\n";

/// What makes the yielding of a thread run away with its virtual runtime where core scheduling runs
/// it all the same, as it did for a week of 2025 in the tip tree (78f8764d34c0): without the condition
/// that commit 79104becf42b has instead.
const YIELD_RUNS_AWAY: &[Edit] = &[Edit {
    file: "kernel/sched/fair.c",
    from: "if (entity_eligible(cfs_rq, se)) {\n\t\tse->vruntime = se->deadline;",
    to: "{\n\t\tse->vruntime = se->deadline;",
}];

/// `schedvmm config` prints a text that it has in itself.
const ASK_DEADLINE: Duration = Duration::from_secs(20);

/// Configuration of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, ValueEnum)]
pub enum Variant {
    /// tinyconfig and testhost/kernel/test.config: all that schedvmm can make use of
    #[default]
    Test,
    /// The kernel's own defconfig
    Defconfig,
    /// defconfig and what `schedvmm config --nested` prints
    Fragment,
    /// The test kernel with the devices of a Red Hat one: no virtio-mmio, its console's driver a
    /// module
    Redhat,
    /// The same with that driver built in: virtio-pci alone
    Pci,
    /// The test kernel with a regression of 2025: yielding under core scheduling costs a thread its turns
    YieldRunsAway,
}

impl Variant {
    /// The word that means it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Defconfig => "defconfig",
            Self::Fragment => "fragment",
            Self::Redhat => "redhat",
            Self::Pci => "pci",
            Self::YieldRunsAway => "yield-runs-away",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a variant is built: whatever changes it makes another kernel of the same sources.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) variant: Variant,
    /// The target of `make` that the configuration begins with.
    pub(super) base: &'static str,
    /// Images of one tree, one after the other: each adds its options to those before.
    pub(super) images: Vec<Image>,
    /// What is changed in the sources first.
    pub(super) edits: &'static [Edit],
    hash: String,
}

/// A text of the sources that is there once, and what takes its place.
#[derive(Debug)]
pub(super) struct Edit {
    /// In the tree.
    pub(super) file: &'static str,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
}

impl Edit {
    /// The file with the change made.
    ///
    /// # Errors
    /// It is not there, or not once: these are other sources.
    pub(super) fn made(&self, text: &str) -> Result<String> {
        let Self { file, from, to } = self;
        match text.matches(from).count() {
            1 => Ok(text.replacen(from, to, 1)),
            count => {
                bail!("`{file}` of these sources has {count} times what is to be changed: {from:?}")
            }
        }
    }
}

/// One image, and what else of its build is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// In the home of this variant.
    pub(super) variant: Variant,
    /// Its file there.
    pub(super) name: &'static str,
    /// Lines that are merged into the configuration.
    pub(super) fragment: String,
    /// True if its modules are built and installed in `lib/modules`, too.
    pub(super) has_modules: bool,
}

impl Recipe {
    /// The recipe of a variant.
    ///
    /// # Errors
    /// The fragment that it is made with cannot be had.
    pub(super) fn read(variant: Variant) -> Result<Self> {
        Ok(match variant {
            Variant::Test => {
                let fragment = test_fragment()?;
                let images = vec![
                    image(variant, IMAGE, fragment.clone()),
                    image(variant, OWN_CMDLINE_IMAGE, OWN_CMDLINE.into()),
                ];
                Self::new(variant, "tinyconfig", images, &config::bare(&fragment))
            }
            Variant::Defconfig => {
                let images = vec![image(variant, IMAGE, String::new())];
                Self::new(variant, "defconfig", images, "")
            }
            Variant::Fragment => {
                let fragment = printed_fragment()?;
                let images = vec![image(variant, IMAGE, fragment.clone())];
                Self::new(variant, "defconfig", images, &config::bare(&fragment))
            }
            Variant::YieldRunsAway => {
                let fragment = test_fragment()?;
                let key = YIELD_RUNS_AWAY.iter().flat_map(|it| [it.file, it.from, it.to]);
                let key = config::bare(&fragment) + &key.collect::<String>();
                let images = vec![image(variant, IMAGE, fragment)];
                let recipe = Self::new(variant, "tinyconfig", images, &key);
                Self { edits: YIELD_RUNS_AWAY, ..recipe }
            }
            // One build makes both: the second one is a matter of seconds.
            Variant::Redhat | Variant::Pci => {
                let fragment = config::overlay(&test_fragment()?, REDHAT);
                let key = config::bare(&format!("{fragment}{CONSOLE_BUILT_IN}"));
                let redhat = image(Variant::Redhat, IMAGE, fragment);
                let images = vec![
                    Image { has_modules: true, ..redhat },
                    image(Variant::Pci, IMAGE, CONSOLE_BUILT_IN.into()),
                ];
                Self::new(variant, "tinyconfig", images, &key)
            }
        })
    }

    fn new(variant: Variant, base: &'static str, images: Vec<Image>, key: &str) -> Self {
        let hash = format!("{:016x}", hash(&format!("{REVISION}\n{key}")));
        Self { variant, base, images, edits: &[], hash }
    }

    /// Where the cache keeps the kernel of this version.
    pub(super) fn home(&self, cache: &Path, version: &str) -> PathBuf {
        self.home_of(self.variant, cache, version)
    }

    /// The same of another variant that this recipe makes, too.
    pub(super) fn home_of(&self, variant: Variant, cache: &Path, version: &str) -> PathBuf {
        cache.join(format!("{version}-{}", self.key(variant)).replace([':', '/'], "_"))
    }

    /// What follows the version in the name of a home. The first variant there was has no word.
    fn key(&self, variant: Variant) -> String {
        match variant {
            Variant::Test => self.hash.clone(),
            other => format!("{other}-{}", self.hash),
        }
    }

    /// The variants that it makes, each once.
    pub(super) fn variants(&self) -> Vec<Variant> {
        let mut variants: Vec<_> = self.images.iter().map(|image| image.variant).collect();
        variants.dedup();
        variants
    }

    /// The image of this series that was built last.
    pub(super) fn built(&self, cache: &Path, series: Series) -> Option<PathBuf> {
        let key = self.key(self.variant);
        let images = fs::read_dir(cache).ok()?.filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let version = name.to_str()?.strip_suffix(&key)?.strip_suffix('-')?;
            // Without its word, what is left of another variant has that at its end.
            if Variant::value_variants().iter().any(|other| version.ends_with(&format!("-{other}")))
            {
                return None;
            }
            let image = entry.path().join(IMAGE);
            let built = fs::metadata(&image).ok()?.modified().ok()?;
            (Series::of_version(version) == Some(series)).then_some((built, image))
        });
        images.max().map(|(_, image)| image)
    }
}

fn image(variant: Variant, name: &'static str, fragment: String) -> Image {
    Image { variant, name, fragment, has_modules: false }
}

/// The options of the test kernel.
fn test_fragment() -> Result<String> {
    let path = project::root().join("testhost/kernel/test.config");
    fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// What `schedvmm` as it is built now tells kernel developers to merge into a defconfig.
fn printed_fragment() -> Result<String> {
    let mut command = Command::new(artifacts::schedvmm()?);
    let (status, text) = process::capture(command.args(["config", "--nested"]), ASK_DEADLINE)?;
    if !status.success() || !text.contains("CONFIG_") {
        bail!("`schedvmm config --nested` ended with {status} and printed no options");
    }
    Ok(text)
}

/// FNV-1a, 64 bits: the same in every build of this program, which std's hasher is not.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn recipe(variant: Variant, key: &str) -> Recipe {
        Recipe::new(variant, "tinyconfig", Vec::new(), key)
    }

    #[test]
    fn the_last_build_of_a_series_is_found_by_its_recipe() {
        let cache = tempfile::tempdir().unwrap();
        let ours = recipe(Variant::Test, "ours");
        let build = |recipe: &Recipe, version: &str, age: u64| {
            let home = recipe.home(cache.path(), version);
            fs::create_dir(&home).unwrap();
            let image = fs::File::create(home.join(IMAGE)).unwrap();
            image.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            home.join(IMAGE)
        };
        assert_eq!(ours.built(cache.path(), Series::HOST), None);
        build(&recipe(Variant::Test, "another"), "6.12.99-1", 0);
        build(&ours, "6.1.176-1", 0);
        build(&ours, "6.12.95-1~bpo12+1", 60);
        let last = build(&ours, "6.12.107-1", 30);
        fs::create_dir(ours.home(cache.path(), "6.12.108-1")).unwrap();
        // Another variant of the same options is another kernel.
        let other = recipe(Variant::Redhat, "ours");
        let its = build(&other, "6.12.110-1", 0);
        assert_eq!(ours.built(cache.path(), Series::HOST), Some(last));
        assert_eq!(other.built(cache.path(), Series::HOST), Some(its));
        assert_eq!(ours.built(cache.path(), Series::new(7, 3)), None);
    }

    #[test]
    fn both_kernels_of_one_tree_have_homes_of_their_own() {
        let cache = Path::new("/cache");
        let (redhat, pci) = (Recipe::read(Variant::Redhat), Recipe::read(Variant::Pci));
        let (redhat, pci) = (redhat.unwrap(), pci.unwrap());
        assert_eq!(redhat.images, pci.images);
        assert_eq!(redhat.variants(), [Variant::Redhat, Variant::Pci]);
        assert_eq!(redhat.home_of(Variant::Pci, cache, "6.12"), pci.home(cache, "6.12"));
        assert_ne!(redhat.home(cache, "6.12"), pci.home(cache, "6.12"));
        let fragment = &redhat.images[0].fragment;
        assert!(!fragment.contains("CONFIG_VIRTIO_MMIO=y"), "{fragment}");
        assert!(fragment.contains("CONFIG_VIRTIO_CONSOLE=m\n"), "{fragment}");
        assert!(fragment.contains("CONFIG_VIRTIO_PCI=y\n"), "{fragment}");
    }

    #[test]
    fn sources_are_changed_in_one_place_or_not_at_all() {
        let [edit] = YIELD_RUNS_AWAY else { panic!("one change") };
        let other = "\tif (x)\n\t\tse->vruntime = 0;\n";
        let sources = format!("{other}\t{}\n", edit.from);
        let made = edit.made(&sources).unwrap();
        assert!(made.starts_with(other) && !made.contains("entity_eligible"), "{made}");
        for (sources, count) in [(other.to_owned(), 0), (format!("{sources}{sources}"), 2)] {
            let error = edit.made(&sources).unwrap_err().to_string();
            assert!(
                error.contains(&format!("fair.c` of these sources has {count} times")),
                "{error}"
            );
        }
        let plain = Recipe::read(Variant::Test).unwrap();
        let away = Recipe::read(Variant::YieldRunsAway).unwrap();
        assert_ne!(plain.hash, away.hash);
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the algorithm's authors.
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    }
}
