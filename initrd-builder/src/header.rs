// SPDX-License-Identifier: Apache-2.0
//! The newc header: 110 ASCII characters before each name.
//!
//! Format: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

/// Magic of a newc header without checksums, and thirteen fields of eight digits.
pub(crate) const HEADER_LEN: usize = 6 + 13 * 8;

/// Where the mode field begins in a header: after the magic and the inode number.
pub(crate) const MODE_OFFSET: usize = 6 + 8;

/// Names and contents begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 4;

/// The name that ends an archive.
pub(crate) const TRAILER: &str = "TRAILER!!!";

/// What one header says. Owner is always root and the time always 0, so that the same
/// contents give the same bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Header {
    pub inode: u32,
    pub mode: u32,
    pub links: u32,
    pub size: u32,
    /// Device number of a device node.
    pub device: (u32, u32),
    /// Length of the name with its terminating NUL.
    pub name_len: u32,
}

impl Header {
    /// The header as text.
    pub(crate) fn to_text(self) -> String {
        let Self { inode, mode, links, size, device: (major, minor), name_len } = self;
        let (uid, gid, mtime, fs_major, fs_minor, checksum) = (0, 0, 0, 0, 0, 0);
        [
            inode, mode, uid, gid, links, mtime, size, fs_major, fs_minor, major, minor, name_len,
            checksum,
        ]
        .iter()
        .fold(String::from("070701"), |text, field| text + &format!("{field:08X}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_kernel_reads_them() {
        let header = Header {
            inode: 1,
            mode: 0o100_755,
            links: 1,
            size: 0xABCD,
            device: (5, 1),
            name_len: 5,
        };
        let text = header.to_text();
        assert_eq!(
            text,
            "07070100000001000081ED0000000000000000000000010000000000\
             00ABCD000000000000000000000005000000010000000500000000"
        );
        assert_eq!(text.len(), HEADER_LEN);
        assert_eq!(&text[MODE_OFFSET..MODE_OFFSET + 8], "000081ED");
    }
}
