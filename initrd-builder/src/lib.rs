// SPDX-License-Identifier: Apache-2.0
//! Composes an initial RAM file system in memory.
