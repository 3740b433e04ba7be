// SPDX-License-Identifier: Apache-2.0
//! The architecture: pure functions that turn a configuration into bytes and structs.

pub mod acpi;
pub mod cpuid;
pub mod elf;
pub mod gdt;
pub mod image;
pub mod image_error;
pub mod lapic;
pub mod layout;
pub mod lint;
pub mod magic;
pub mod msrs;
pub mod not_a_kernel;
pub mod notes;
pub mod packed;
pub mod page_tables;
pub mod payload;
pub mod regs;
pub mod reset_vector;
pub mod screen;
pub mod setup_data;
pub mod wrapped;
pub mod zero_page;
