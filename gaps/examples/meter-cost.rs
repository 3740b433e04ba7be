// SPDX-License-Identifier: Apache-2.0
//! Prints what the meter costs on this machine.

fn main() {
    let cost = gaps::bench::meter(2000);
    println!("{cost:#?}");
    println!("ratio {:.3}", cost.ratio());
}
