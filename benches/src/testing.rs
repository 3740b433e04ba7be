// SPDX-License-Identifier: Apache-2.0
//! Results that tests of benchmarks begin with.

use std::io::Read;

use results::model::RunResult;

/// The result of this version that a run with this target left: `user`, `host` or `nested`.
pub fn result(target: &str) -> RunResult {
    let packed: &[u8] = match target {
        "user" => include_bytes!("../../results/tests/data/user.json.xz"),
        "host" => include_bytes!("../../results/tests/data/host.json.xz"),
        "nested" => include_bytes!("../../results/tests/data/nested.json.xz"),
        other => panic!("no sample of target {other}"),
    };
    let mut text = String::new();
    liblzma::read::XzDecoder::new(packed).read_to_string(&mut text).unwrap();
    results::saved::printed(&text).unwrap()
}
