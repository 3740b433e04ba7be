// SPDX-License-Identifier: Apache-2.0
//! Objects of `result.json` whose keys stand among those of another.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// An object whose keys stand among others, all of them or none.
pub trait Flattened: DeserializeOwned {
    /// The key by which it is known to be there.
    const KEY: &'static str;
}

/// What serde's own `flatten` of an `Option` does not do: a key that is wrong is an error, and does
/// not make all of the object `None`.
///
/// # Errors
/// Some of the object's keys are there, and not all, or one has a wrong value.
pub fn flattened<'de, D: Deserializer<'de>, T: Flattened>(from: D) -> Result<Option<T>, D::Error> {
    let found = Map::<String, Value>::deserialize(from)?;
    if !found.contains_key(T::KEY) {
        return Ok(None);
    }
    T::deserialize(Value::Object(found)).map(Some).map_err(D::Error::custom)
}
