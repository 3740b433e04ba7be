// SPDX-License-Identifier: Apache-2.0
//! The file that tells of a folder with many runs: trials, a comparison, a matrix, a search. Read and
//! written in one way.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::SetError;
use crate::folder::{self, FolderError};
use crate::json;

/// What is in such a file.
pub trait SetFile: Serialize + DeserializeOwned {
    /// Its name in the folder.
    const NAME: &'static str;
    /// The schema that is known here.
    const SCHEMA: &'static str;
    /// Which verb makes one.
    const VERB: &'static str;

    /// What types alone do not say, if it is wrong.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Whether a folder has one.
    fn is_in(folder: &Path) -> bool {
        folder.join(Self::NAME).is_file()
    }

    /// Reads the one in a folder.
    ///
    /// # Errors
    /// There is none, or none of the schema that is known here.
    fn open(folder: &Path) -> Result<Self, SetError> {
        let path = folder.join(Self::NAME);
        let none = |why: String| SetError::NoSet { path: path.clone(), name: Self::NAME, why };
        let text = fs::read_to_string(&path).map_err(|why| SetError::Read {
            path: path.clone(),
            why,
            verb: Self::VERB,
        })?;
        // By way of a value, as results are: the code for their parts is there once.
        let value: Value = serde_json::from_str(&text).map_err(|error| none(error.to_string()))?;
        if let Some(schema) = value["schema"].as_str().filter(|schema| *schema != Self::SCHEMA) {
            let (schema, known) = (schema.to_owned(), Self::SCHEMA);
            return Err(SetError::Schema { path, schema, known });
        }
        let read = Self::deserialize(&value).map_err(|error| none(error.to_string()))?;
        read.fault().map_or(Ok(read), |why| Err(none(why)))
    }

    /// Writes it, whole or not at all, even where the power fails.
    ///
    /// # Errors
    /// The disk is full, for one.
    fn write(&self, folder: &Path) -> Result<(), FolderError> {
        folder::write_whole(&folder.join(Self::NAME), |file| {
            json::write_line(&mut *file, self)?;
            // Before the older one goes.
            file.flush()?;
            file.get_ref().sync_all()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Made {
        schema: String,
        runs: u32,
    }

    impl SetFile for Made {
        const NAME: &'static str = "made.json";
        const SCHEMA: &'static str = "schedvmm-made/1";
        const VERB: &'static str = "make";

        fn fault(&self) -> Option<String> {
            (self.runs == 0).then(|| "it has no run".into())
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_none_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let refused = |text: &str| {
            fs::write(dir.path().join(Made::NAME), text).expect("written");
            Made::open(dir.path()).expect_err("none").to_string()
        };
        for (text, told) in [
            ("{", "made.json is no made.json of schedvmm: EOF"),
            (r#"{"schema": "schedvmm-made/1"}"#, "of schedvmm: missing field `runs`"),
            (r#"{"schema": "schedvmm-made/1", "runs": 0}"#, "of schedvmm: it has no run"),
            (
                r#"{"schema": "schedvmm-made/2"}"#,
                "made.json is of schema `schedvmm-made/2`; this program knows schedvmm-made/1",
            ),
        ] {
            assert!(refused(text).contains(told), "{}", refused(text));
        }
        let made = Made { schema: Made::SCHEMA.into(), runs: 3 };
        made.write(dir.path()).expect("written");
        assert_eq!(Made::open(dir.path()).expect("read"), made);
        assert!(Made::is_in(dir.path()));
        let none = dir.path().join("none");
        assert!(!Made::is_in(&none));
        let none = Made::open(&none).expect_err("none").to_string();
        assert!(none.ends_with("; name a folder of `schedvmm make`"), "{none}");
    }
}
