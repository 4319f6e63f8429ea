#![forbid(unsafe_code)]
//! Keys of a RON file, each read by itself, so that every wrong one is reported with its place.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use ron::Options;
use ron::extensions::Extensions;
use ron::value::RawValue;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::ConfigError;
use super::literal::Walk;
use crate::admission::address_list::{AddressList, Source};
use crate::sandbox::{Need, Needs, What};

/// The reader's settings: what makes a RON file pleasant to write.
fn options() -> Options {
    Options::default().with_default_extension(
        Extensions::IMPLICIT_SOME
            | Extensions::UNWRAP_NEWTYPES
            | Extensions::UNWRAP_VARIANT_NEWTYPES,
    )
}

/// A configuration file's text.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    pub(crate) file: &'a Path,
    pub(crate) text: &'a str,
    /// Where what is needed beside sockets is noted.
    needs: Option<&'a Needs>,
}

/// A key's value as it stands in the file, or nothing.
pub struct Field<'a, T> {
    raw: Option<&'a str>,
    wanted: PhantomData<fn() -> T>,
}

impl<T> Default for Field<'_, T> {
    fn default() -> Self {
        Field {
            raw: None,
            wanted: PhantomData,
        }
    }
}

impl<T> Clone for Field<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<'_, T> {}

impl<'de: 'a, 'a, T> Deserialize<'de> for Field<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: &'de RawValue = Deserialize::deserialize(deserializer)?;
        Ok(Field {
            raw: Some(trim(raw.get_ron())),
            wanted: PhantomData,
        })
    }
}

impl<'a, T> Field<'a, T> {
    /// The value's text.
    #[must_use]
    pub fn raw(&self) -> Option<&'a str> {
        self.raw
    }

    /// True when the key stands in the file.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.raw.is_some()
    }
}

impl<'a> Text<'a> {
    pub(crate) fn new(file: &'a Path, text: &'a str) -> Self {
        Text {
            file,
            text,
            needs: None,
        }
    }

    /// The same, and what its keys need is noted.
    pub(crate) fn noting(self, needs: &'a Needs) -> Self {
        let needs = Some(needs);
        Text { needs, ..self }
    }

    /// Notes that the piece of the text needs something.
    pub(crate) fn need(&self, piece: &str, what: What) {
        if let Some(needs) = self.needs {
            let place = self.error(self.offset(piece), String::new());
            needs.borrow_mut().push(Need { what, place });
        }
    }

    /// Reads a value from a piece of the text.
    pub(crate) fn read<T: Deserialize<'a>>(
        &self,
        piece: &'a str,
        errors: &mut Vec<ConfigError>,
    ) -> Option<T> {
        match options().from_str(piece) {
            Ok(value) => Some(value),
            Err(error) => {
                let at = error.span.start;
                let offset = self.offset(piece) + position_to_offset(piece, at.line, at.col);
                errors.push(self.error(offset, error.code.to_string()));
                None
            }
        }
    }

    /// The value of a key, `None` when it is absent or wrong.
    pub fn get<T: DeserializeOwned>(
        &self,
        field: Field<'a, T>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<T> {
        self.read(field.raw?, errors)
    }

    /// The value of a key made into something else.
    pub fn map<T: DeserializeOwned, U>(
        &self,
        field: Field<'a, T>,
        errors: &mut Vec<ConfigError>,
        make: impl FnOnce(T) -> Result<U, String>,
    ) -> Option<U> {
        let value = self.get(field, errors)?;
        match make(value) {
            Ok(made) => Some(made),
            Err(message) => {
                self.complain(field, errors, message);
                None
            }
        }
    }

    /// An error at a key's value.
    pub fn complain<T>(
        &self,
        field: Field<'a, T>,
        errors: &mut Vec<ConfigError>,
        message: impl Into<String>,
    ) {
        let offset = field.raw.map_or(0, |raw| self.offset(raw));
        errors.push(self.error(offset, message.into()));
    }

    /// The values of a list, each with its own place.
    pub(crate) fn each<T>(
        &self,
        field: Field<'a, Vec<Field<'a, T>>>,
        errors: &mut Vec<ConfigError>,
    ) -> Vec<Field<'a, T>> {
        field
            .raw
            .and_then(|raw| self.read(raw, errors))
            .unwrap_or_default()
    }

    /// A path relative to this file.
    pub(crate) fn path(
        &self,
        field: Field<'a, String>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<PathBuf> {
        let path = self.get(field, errors)?;
        Some(self.file.parent().unwrap_or(Path::new("")).join(path))
    }

    /// The same of a file that is read.
    pub(crate) fn file_path(
        &self,
        field: Field<'a, String>,
        errors: &mut Vec<ConfigError>,
    ) -> Option<PathBuf> {
        let path = self.path(field, errors)?;
        self.need(field.raw?, What::File(path.clone()));
        Some(path)
    }

    /// The address list in a string; its errors name their own lines.
    pub(crate) fn list(&self, raw: &'a str, errors: &mut Vec<ConfigError>) -> Option<AddressList> {
        let text: String = self.read(raw, errors)?;
        let start = position_of(self.text, self.offset(raw));
        let walk = RefCell::new(Walk::of(raw, start));
        let position = |offset: usize| walk.borrow_mut().to(offset);
        let source = Source {
            file: self.file,
            text: &text,
            position: &position,
        };
        match AddressList::parse(&source) {
            Ok(list) => {
                for file in list.files().filter(|file| *file != self.file) {
                    self.need(raw, What::File(file.to_owned()));
                }
                Some(list)
            }
            Err(bad) => {
                errors.extend(bad.into_iter().map(|bad| ConfigError {
                    file: bad.file,
                    line: bad.line,
                    column: bad.column,
                    message: bad.message,
                }));
                None
            }
        }
    }

    /// An error at an offset of the text.
    pub(crate) fn error(&self, offset: usize, message: String) -> ConfigError {
        let (line, column) = position_of(self.text, offset);
        ConfigError {
            file: self.file.to_path_buf(),
            line,
            column,
            message,
        }
    }

    /// Where a piece of the text begins.
    pub(crate) fn offset(&self, piece: &str) -> usize {
        (piece.as_ptr() as usize)
            .saturating_sub(self.text.as_ptr() as usize)
            .min(self.text.len())
    }
}

/// A value without the white space and comments before and after it.
fn trim(mut text: &str) -> &str {
    loop {
        let before = text;
        text = text.trim_start();
        if text.starts_with("//") {
            text = text.split_once('\n').map_or("", |(_, rest)| rest);
        } else if text.starts_with("/*") {
            text = text.split_once("*/").map_or("", |(_, rest)| rest);
        }
        if text == before {
            return text.trim_end();
        }
    }
}

/// The offset of a line and column, both from 1 and the column in characters.
pub(super) fn position_to_offset(text: &str, line: usize, column: usize) -> usize {
    let mut start = 0;
    for _ in 1..line {
        match text[start..].find('\n') {
            Some(end) => start += end + 1,
            None => return text.len(),
        }
    }
    let rest = text[start..]
        .char_indices()
        .map(|(at, _)| at)
        .nth(column.saturating_sub(1));
    start + rest.unwrap_or(text.len() - start)
}

/// Line and column of an offset, both from 1 and the column in characters.
fn position_of(text: &str, offset: usize) -> (u32, u32) {
    let offset = offset.min(text.len());
    let before = &text.as_bytes()[..offset];
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let start = memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
    let characters = text[start..].char_indices();
    let column = characters.take_while(|(at, _)| start + at < offset).count() + 1;
    (
        u32::try_from(line).unwrap_or(u32::MAX),
        u32::try_from(column).unwrap_or(u32::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::{position_of, position_to_offset, trim};

    #[test]
    fn places_in_texts_are_lines_and_columns() {
        assert_eq!(position_to_offset("ab\ncd", 2, 2), 4);
        let text = "ab\ncdé+f";
        let plus = text.find('+').unwrap();
        assert_eq!(position_of(text, plus), (2, 4), "characters, not bytes");
        assert_eq!(position_to_offset(text, 2, 4), plus);
        assert_eq!(trim(" // c\n /* d */ 5 "), "5");
    }
}
