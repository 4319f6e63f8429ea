#![forbid(unsafe_code)]
//! Questions to the daemon, with typed answers.

use serde::de::DeserializeOwned;

use super::Office;
use crate::control::{Fault, Request, Response};

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refused {
    /// In words.
    Error(String),
    /// What was sent is wrong at these places.
    Invalid(Vec<Fault>),
}

impl Office {
    /// Asks; called on a lane.
    pub(super) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Refused> {
        match self.setup.link.execute(request) {
            Response::Ok(value) => serde_json::from_value(value)
                .map_err(|error| Refused::Error(format!("the answer is not understood: {error}"))),
            Response::Error(error) => Err(Refused::Error(error)),
            Response::Invalid(faults) => Err(Refused::Invalid(faults)),
        }
    }
}

impl Refused {
    /// In words, a line for each thing.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Refused::Error(error) => vec![error.clone()],
            Refused::Invalid(faults) => faults.iter().map(line).collect(),
        }
    }
}

/// A fault with its place.
pub(super) fn line(fault: &Fault) -> String {
    let mut place = String::new();
    if let Some(file) = &fault.file {
        place.push_str(file);
        place.push(':');
    }
    match (fault.line, fault.column) {
        (Some(line), Some(column)) => place.push_str(&format!("line {line}, column {column}: ")),
        (Some(line), None) => place.push_str(&format!("line {line}: ")),
        _ if !place.is_empty() => place.push(' '),
        _ => {}
    }
    format!("{place}{}", fault.message)
}
