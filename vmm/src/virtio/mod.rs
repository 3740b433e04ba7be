// SPDX-License-Identifier: Apache-2.0
//! virtio-mmio devices.
