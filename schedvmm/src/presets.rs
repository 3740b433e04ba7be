// SPDX-License-Identifier: Apache-2.0
//! Loads by name: files that the program has in it.

use clap::builder::PossibleValuesParser;

/// Names, and the text of each, a load's file.
pub const PRESETS: [(&str, &str); 10] = [
    ("pairs-burst", include_str!("../presets/pairs-burst.toml")),
    ("busy", include_str!("../presets/busy.toml")),
    ("two-cookie", include_str!("../presets/two-cookie.toml")),
    ("yield", include_str!("../presets/yield.toml")),
    ("half-idle-vm", include_str!("../presets/half-idle-vm.toml")),
    ("weights", include_str!("../presets/weights.toml")),
    ("mixed-tagged", include_str!("../presets/mixed-tagged.toml")),
    ("throttle", include_str!("../presets/throttle.toml")),
    ("wakeup", include_str!("../presets/wakeup.toml")),
    ("arrivals", include_str!("../presets/arrivals.toml")),
];

/// Names of presets, as clap wants them.
pub fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(PRESETS.map(|(name, _)| name))
}
