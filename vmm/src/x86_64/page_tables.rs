// SPDX-License-Identifier: Apache-2.0
//! Identity map of the first GiB with 2 MiB pages: what `startup_64` needs until the kernel
//! has tables of its own.

use crate::x86_64::layout;

/// Present, writable (Intel SDM volume 3A section 4.5).
const TABLE_FLAGS: u64 = 0x3;
/// Present, writable, page size 2 MiB.
const PAGE_2M_FLAGS: u64 = 0x83;
const ENTRIES: usize = 512;

/// PML4, page-directory-pointer table and page directory, to be written at
/// [`layout::PML4`], which the other two follow without a hole.
pub fn identity_map() -> Vec<u8> {
    let mut words = vec![0u64; 3 * ENTRIES];
    words[0] = layout::PDPT.0 | TABLE_FLAGS;
    words[ENTRIES] = layout::PAGE_DIRECTORY.0 | TABLE_FLAGS;
    for (n, entry) in (0u64..).zip(&mut words[2 * ENTRIES..]) {
        *entry = n << 21 | PAGE_2M_FLAGS;
    }
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], n: usize) -> u64 {
        u64::from_le_bytes(bytes[8 * n..8 * n + 8].try_into().expect("8 bytes"))
    }

    #[test]
    fn tables_follow_each_other_and_map_one_gib() {
        assert_eq!(layout::PDPT.0, layout::PML4.0 + 0x1000);
        assert_eq!(layout::PAGE_DIRECTORY.0, layout::PML4.0 + 0x2000);
        let bytes = identity_map();
        assert_eq!(bytes.len(), 0x3000);
        assert_eq!(word(&bytes, 0), 0xa003);
        assert_eq!(word(&bytes, 1), 0);
        assert_eq!(word(&bytes, 512), 0xb003);
        assert_eq!(word(&bytes, 1024), 0x83);
        assert_eq!(word(&bytes, 1535), 0x3fe0_0083);
    }
}
