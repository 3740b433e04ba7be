// SPDX-License-Identifier: Apache-2.0
//! What the zero page has no field for: a list that it points to, of which there is one node here.
//!
//! Source: Linux arch/x86/include/uapi/asm/setup_data.h and arch/x86/kernel/setup.c,
//! `parse_setup_data`.

use crate::x86_64::layout;

/// Bytes of a seed: what the kernel's random number generator wants before it calls itself ready.
pub const RNG_SEED_BYTES: usize = 32;
/// Bytes of a node before its data: `next`, `type`, `len`.
const HEAD_BYTES: usize = 16;
/// Bytes of the node with a seed.
pub const NODE_BYTES: usize = HEAD_BYTES + RNG_SEED_BYTES;

/// Type of a node with a seed. Kernels before 6.0 do not know it, and pass it over.
const SETUP_RNG_SEED: u32 = 9;
/// Address of the node behind the last one.
const END_OF_LIST: u64 = 0;

/// The only node: a seed for the kernel's random number generator. It is to lie at
/// [`layout::RNG_SEED`].
///
/// The kernel takes it for as good as 256 bits of entropy, unless it was built without
/// CONFIG_RANDOM_TRUST_BOOTLOADER before 6.2: then it mixes it in and goes on waiting. The word
/// `random.trust_bootloader=1` does not change that, for the list is read before the command line.
pub fn rng_seed(seed: &[u8; RNG_SEED_BYTES]) -> Vec<u8> {
    let len = layout::narrow(RNG_SEED_BYTES as u64);
    let mut node = END_OF_LIST.to_le_bytes().to_vec();
    node.extend(SETUP_RNG_SEED.to_le_bytes());
    node.extend(len.to_le_bytes());
    node.extend(seed);
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_as_the_kernel_reads_it() {
        let node = rng_seed(&[0x5a; RNG_SEED_BYTES]);
        assert_eq!(node.len(), NODE_BYTES);
        assert_eq!(node[..16], [0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0]);
        assert_eq!(node[16..], [0x5a; 32]);
    }
}
